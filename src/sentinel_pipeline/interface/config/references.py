"""Does what the streams say about models and classes fit what the models are?

The checks read the tree, not the validated sections, so that they report beside whatever else is wrong in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sentinel_pipeline.domain.builtin_models import BUILTIN_MODELS, COCO_LABELS, FACES
from sentinel_pipeline.interface.config.files import is_file, read_labels, resolve
from sentinel_pipeline.interface.config.model_section import MODEL_FILES
from sentinel_pipeline.interface.config.problems import Problem, Steps, key_shown
from sentinel_pipeline.interface.config.suggestions import did_you_mean
from sentinel_pipeline.interface.config.tree import Document, Node, may_be_secret


def check_models(document: Document, base: Path) -> Iterator[Problem]:
    """Yield what is wrong with each model as a whole, and with the files it names."""
    for name, model in document.root.entries("models"):
        if isinstance(model.value, dict) or (model.value is None and not model.broken):
            path: Steps = ("models", name)
            yield from _one_origin(document, path, model)
            yield from _combination(document, path, model)
            yield from _model_files(document, path, model, base)


def _one_origin(document: Document, path: Steps, model: Node) -> Iterator[Problem]:
    given = [
        key for key in ("builtin", "path") if (node := model.child(key)) and (node.value is not None or node.broken)
    ]
    if len(given) == 2:
        message = "a model is built in or comes from a file, not both"
        yield document.problem((*path, "path"), message, "remove `builtin` or `path`", at_key=True)
    elif not given:
        remedy = f"add `path: models/mine.onnx` or `builtin: {next(iter(BUILTIN_MODELS))}`"
        yield document.problem(path, "the model has neither `builtin` nor `path`", remedy, at_key=True)


def _combination(document: Document, path: Steps, model: Node) -> Iterator[Problem]:
    builtin = BUILTIN_MODELS.get(model.text("builtin") or "")
    family = model.text("family")
    if builtin and family in ("yolov8", "centerface") and family != builtin.family:
        message = f"the outputs of this built-in model are read as {builtin.family}"
        yield document.problem((*path, "family"), message, "remove `family`", at_key=True)
    tensorrt = model.child("tensorrt")
    if tensorrt and is_true(tensorrt) and (device := model.text("device")) in ("cpu", "openvino", "cuda"):
        message = f"TensorRT is not used with `device: {device}`"
        yield document.problem((*path, "tensorrt"), message, "write `device: auto`, or remove `tensorrt`", at_key=True)


def _model_files(document: Document, path: Steps, model: Node, base: Path) -> Iterator[Problem]:
    file = model.text("path")
    meant = file is not None and file.lower().endswith(MODEL_FILES) and model.child("builtin") is None
    if file is not None and meant and not is_file(resolve(base, file)):
        yield _no_file(document, (*path, "path"), base)
    labels = model.text("labels")
    if labels is None or labels == "coco":
        return
    if not is_file(resolve(base, labels)):
        yield _no_file(document, (*path, "labels"), base)
        return
    try:
        read_labels(resolve(base, labels))
    except ValueError as exc:
        remedy = "write one label a line, in the model's order"
        yield document.problem((*path, "labels"), f"these labels cannot be used: {exc}", remedy)


def _no_file(document: Document, path: Steps, base: Path) -> Problem:
    name = document.name(path)
    message = f'there is no file "{name}"' if name is not None else "there is no file of this name"
    return document.problem(path, message, f"write an absolute path, or one relative to {base}")


def check_detection(document: Document, base: Path) -> Iterator[Problem]:
    """Yield models that do not exist and classes that can never be seen."""
    models = dict(document.root.entries("models"))
    for stream, node in document.root.entries("streams"):
        path: Steps = ("streams", stream, "analyse", "detect", "model")
        model = node.text("analyse", "detect", "model")
        if model is not None:
            yield from _exists(document, path, model, models)
            yield from _classes(document, stream, node, classes_of(model, models, base))
        yield from _private(document, stream, node, models, base)


def _private(document: Document, stream: str, node: Node, models: dict[str, Node], base: Path) -> Iterator[Problem]:
    path: Steps = ("streams", stream, "privacy")
    blur = list(node.texts("privacy", "blur"))
    if not blur:
        return  # no such section, or reported by the field
    written = node.text("privacy", "model")
    model = finder([name for _, name in blur], written, node.text("analyse", "detect", "model"))
    if model is None:
        remedy = "add `model:`, or `analyse` with a model that knows the classes"
        yield document.problem((*path, "blur"), "no model says where these are", remedy, at_key=True)
        return
    if written is not None:
        yield from _exists(document, (*path, "model"), model, models)
    known = classes_of(model, models, base)
    for index, name in blur:
        yield from _known_class(document, (*path, "blur", index), name, known)


def finder(blur: Collection[str], model: str | None, detected_by: str | None) -> str | None:
    """Return the model that finds the classes ``blur``: the one named, the built-in one for faces, the stream's own."""
    return model or (FACES if set(blur) == {"face"} else detected_by)


def _exists(document: Document, path: Steps, model: str, models: dict[str, Node]) -> Iterator[Problem]:
    if model not in models and model not in BUILTIN_MODELS:
        yield _no_model(document, path, [*models, *BUILTIN_MODELS])


def _no_model(document: Document, path: Steps, known: list[str]) -> Problem:
    name = document.name(path)
    message = f'there is no model "{name}"' if name is not None else "there is no model of this name"
    return document.problem(path, message, did_you_mean(name, [key_shown(key) for key in known]))


@dataclass(frozen=True, slots=True)
class Classes:
    """What a model can see: its labels, or None when only its file says. ``shown``: they may stand in a message."""

    names: tuple[str, ...] | None
    shown: bool = True


def classes_of(model: str, models: dict[str, Node], base: Path) -> Classes:
    """Return the classes of the model that a stream names."""
    entry = models.get(model)
    if entry is None:
        return Classes(BUILTIN_MODELS[model].labels if model in BUILTIN_MODELS else None)
    given = entry.child("labels")
    if given is not None and isinstance(given.value, list):
        names = tuple(label for _, label in entry.texts("labels"))
        whole = len(names) == len(given.value)  # what is broken or no text is reported, and could be any name
        secret = any(label.touched or may_be_secret((), label.value) for _, label in entry.items("labels"))
        return Classes(names if whole else None, shown=not secret)
    if given is not None and isinstance(given.value, str) and not given.broken:
        return Classes(_named_labels(given.value, base))
    builtin = BUILTIN_MODELS.get(entry.text("builtin") or "")
    return Classes(builtin.labels if builtin else None)


def _named_labels(name: str, base: Path) -> tuple[str, ...] | None:
    if name == "coco":
        return COCO_LABELS
    try:
        return read_labels(resolve(base, name))
    except ValueError:
        return None  # reported with the model


def _classes(document: Document, stream: str, node: Node, known: Classes) -> Iterator[Problem]:
    analyse: Steps = ("streams", stream, "analyse")
    wanted = [name for _, name in node.texts("analyse", "detect", "classes")]
    for index, name in node.texts("analyse", "detect", "classes"):
        yield from _known_class(document, (*analyse, "detect", "classes", index), name, known)
    for number, rule in node.items("analyse", "rules"):
        for index, name in rule.texts("classes"):
            path = (*analyse, "rules", number, "classes", index)
            if known.names is not None and name not in known.names:
                yield from _known_class(document, path, name, known)
            elif wanted and name not in wanted:
                message = f"{document.shown(path)} is not in `detect.classes`, so the rule never sees one"
                yield document.problem(path, message, "add it to `detect.classes`, or remove it here")


def _known_class(document: Document, path: Steps, name: str, known: Classes) -> Iterator[Problem]:
    if known.names is not None and name not in known.names:
        message = f"{document.shown(path)} is not a class of the model"
        remedy = did_you_mean(document.name(path), known.names) if known.shown else "write one of the model's labels"
        yield document.problem(path, message, remedy)


def is_true(node: Node) -> bool:
    """Return whether a node says yes, in any of the ways that a truth value can be written."""
    return str(node.value).lower() in ("true", "yes", "on", "1", "y", "t")
