"""The models that come with the program: their names, how their outputs are read, and what they can see."""

from __future__ import annotations

from dataclasses import dataclass

COCO_LABELS: tuple[str, ...] = tuple(
    (  # noqa: SIM905 - as a list it would be 80 lines
        "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|"
        "parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|"
        "tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|"
        "tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|"
        "hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|mouse|remote|"
        "keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|"
        "hair drier|toothbrush"
    ).split("|")
)
"""The 80 classes of COCO detection, in the order in which models count them."""


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A model shipped with the program."""

    family: str
    labels: tuple[str, ...]


FACES = "centerface"  # what finds faces where no model is named

BUILTIN_MODELS: dict[str, BuiltinModel] = {
    "nanodet-g-416": BuiltinModel("yolov8", COCO_LABELS),
    "nanodet-g-416-int8": BuiltinModel("yolov8", COCO_LABELS),
    FACES: BuiltinModel("centerface", ("face",)),
}
