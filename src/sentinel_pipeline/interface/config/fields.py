"""The kinds of values that a configuration has. Each reads what people write and says what it wants when it cannot.

Messages are made for the reader of the file. ``{value}`` in one stands for the value, which is filled in later and only
where it is no secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sentinel_pipeline.domain.geometry import Point
from sentinel_pipeline.domain.settings import COMMANDS
from sentinel_pipeline.interface.config.units import (
    BITRATES,
    DURATIONS,
    SIZES,
    format_bitrate,
    format_duration,
    format_size,
    parse_bitrate,
    parse_duration,
    parse_picture,
    parse_size,
)

FAULT = "sentinel"  # the type of all errors that carry their own message and remedy


def fault(message: str, remedy: str = "") -> PydanticCustomError:
    """Return an error for a validator to raise."""
    return PydanticCustomError(FAULT, "{message}", {"message": message, "remedy": remedy})


def _number(value: object) -> float:
    """Return a number, also from text: after a substitution everything is text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError as exc:
        raise ValueError("not a number") from exc
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


def _whole(value: object) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("not a whole number")
    return int(number)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of quantity: how to read it, how to write it, and what to call it."""

    name: str
    example: str
    parse: Callable[[object], float]
    show: Callable[[Any], str]
    json_schema: dict[str, Any]


def _with_unit(pattern: str) -> dict[str, Any]:
    return {"type": ["string", "number"], "pattern": pattern}


NUMBER = Kind("a number", "a plain number", _number, lambda n: f"{n:g}", {"type": "number"})
WHOLE = Kind("a whole number", "a plain whole number", _whole, str, {"type": "integer"})
DURATION = Kind(
    "a duration",
    DURATIONS,
    parse_duration,
    format_duration,
    _with_unit(r"^\s*[0-9]+(\.[0-9]+)?\s*([mM][sS]|[sSmMhHdD])?\s*$"),
)
SIZE = Kind(
    "a size",
    SIZES,
    parse_size,
    format_size,
    _with_unit(r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT]?[iI]?[bB])?\s*$"),
)
BITRATE = Kind(
    "a bit rate", BITRATES, parse_bitrate, format_bitrate, _with_unit(r"^\s*[0-9]+(\.[0-9]+)?\s*[kKmMgG]?\s*$")
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of some kind between two bounds, both included. Bounds are written like values (``"100ms"``)."""

    kind: Kind
    low: float | str
    high: float | str
    optional: bool = False

    def read(self, value: object) -> float | None:
        """Return the number; None for nothing where that is allowed. Raises a fault."""
        if self.optional and (value is None or (isinstance(value, str) and value.strip() in ("", "null", "~"))):
            return None
        kind = self.kind
        try:
            number = kind.parse(value)
        except ValueError:
            raise fault(f"{{value}} is not {kind.name}", f"write {kind.example}") from None
        low, high = kind.parse(self.low), kind.parse(self.high)
        if low <= number <= high:
            return number
        side = f"less than {kind.show(low)}" if number < low else f"more than {kind.show(high)}"
        raise fault(f"{{value}} is {side}", f"write {kind.name} from {kind.show(low)} to {kind.show(high)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = dict(self.kind.json_schema)
        if self.kind in (NUMBER, WHOLE):
            made |= {"minimum": self.low, "maximum": self.high}
        show, parse = self.kind.show, self.kind.parse
        made["x-range"] = f"{show(parse(self.low))} to {show(parse(self.high))}"
        return {"anyOf": [made, {"type": "null"}]} if self.optional else made


def _matching(pattern: str, what: str, remedy: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise fault(f"{{value}} is not {what}", remedy)
        return value

    return check


_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_EVENT = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
_SHA256 = r"[0-9a-fA-F]{64}"
_HEADER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2

Id = Annotated[
    str,
    AfterValidator(
        _matching(_ID, "an id", "write letters, digits, - and _, at most 63, beginning with a letter or digit")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_ID}$"}),
]
EventType = Annotated[
    str,
    AfterValidator(_matching(_EVENT, "an event type", "write letters, digits, _, . and -, such as INTRUSION")),
    WithJsonSchema({"type": "string", "pattern": f"^{_EVENT}$"}),
]
Sha256 = Annotated[
    str,
    AfterValidator(
        _matching(_SHA256, "a SHA-256 digest", "write the 64 hexadecimal digits that `sha256sum FILE` prints")
    ),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "pattern": f"^{_SHA256}$"}),
]
HeaderName = Annotated[
    str, AfterValidator(_matching(_HEADER, "the name of an HTTP header", "see RFC 9110 section 5.1"))
]
CodecName = Annotated[
    str,
    AfterValidator(
        _matching(r"[a-z0-9_]{1,32}", "the name of an encoder", "write FFmpeg's name of it, such as libx264")
    ),
]
TopicName = Annotated[
    str,
    AfterValidator(
        _matching(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", "the name of a topic", "write letters, digits, - _ and /")
    ),
]
CommandName = Annotated[
    str,
    AfterValidator(_matching("|".join(COMMANDS), "a command", "write " + ", ".join(COMMANDS))),
    WithJsonSchema({"type": "string", "enum": list(COMMANDS)}),
]
PresetName = Annotated[
    str, AfterValidator(_matching(r"[a-z0-9_-]{1,32}", "the name of a preset", "write a preset such as ultrafast"))
]


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise fault("{value} has characters that HTTP cannot carry", "write printable ASCII on one line")
    if value != value.strip():
        raise fault("{value} begins or ends with white space", "remove it; is a variable in it empty?")
    return value


HeaderValue = Annotated[str, AfterValidator(_header_value)]


def _filled(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise fault("{value} is empty or has control characters in it", "write a name")
    return value


Name = Annotated[str, AfterValidator(_filled)]
"""A file, class or module name: printable and not empty."""


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise fault("an empty list hides nothing", "name classes, such as [face], or remove the section")
    return names


HiddenClasses = Annotated[tuple[Name, ...], AfterValidator(_some)]


def _point(value: object) -> Point:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise fault("{value} is not a point", "write [x, y], shares of the picture's width and height such as [0.5, 1]")
    try:
        x, y = _number(value[0]), _number(value[1])
    except ValueError:
        raise fault("{value} is not a point", "write two numbers, such as [0.5, 1]") from None
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise fault(
            "a point lies outside the picture",
            "write shares of the width and height from 0 to 1, not pixels: x / width, y / height",
        )
    return x, y


def _polygon(value: object) -> tuple[Point, ...]:
    if not isinstance(value, list | tuple):
        raise fault("{value} is not a polygon", "write a list of points: [[0, 0], [1, 0], [1, 1]]")
    points = tuple(_point(point) for point in value)
    if len(points) < 3:
        raise fault(f"a polygon of {len(points)} points has no inside", "write at least three points")
    if len(points) > 256:
        raise fault("a polygon of more than 256 points is slow to test", "leave points out")
    ring = zip(points, (*points[1:], points[0]), strict=True)
    if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in ring)) / 2 < 1e-6:
        raise fault(
            "the polygon has no area", "move its points apart: they lie on one line, or the outline crosses itself"
        )
    return points


_POINT_SCHEMA = {
    "type": "array",
    "items": {"type": "number", "minimum": 0, "maximum": 1},
    "minItems": 2,
    "maxItems": 2,
}
PointField = Annotated[Point, BeforeValidator(_point), WithJsonSchema(_POINT_SCHEMA)]
Polygon = Annotated[
    tuple[Point, ...],
    BeforeValidator(_polygon),
    WithJsonSchema({"type": "array", "items": _POINT_SCHEMA, "minItems": 3, "maxItems": 256}),
]


def _picture(value: object) -> tuple[int, int]:
    try:
        width, height = parse_picture(value)
    except ValueError:
        raise fault("{value} is not a picture size", "write WIDTHxHEIGHT, such as 1280x720") from None
    if not (16 <= width <= 8192 and 16 <= height <= 8192):
        raise fault("{value} is out of range", "write a width and a height from 16 to 8192")
    return width, height


def _published(value: object) -> tuple[int, int] | None:
    if value == "source":
        return None
    size = _picture(value)
    if size[0] % 2 or size[1] % 2:
        raise fault(
            "{value} has an odd width or height",
            f"write even numbers, such as {size[0] & ~1}x{size[1] & ~1}: the colour planes of video have half the size",
        )
    return size


_PICTURE_PATTERN = r"[0-9]+[xX][0-9]+"
InputSize = Annotated[
    tuple[int, int], BeforeValidator(_picture), WithJsonSchema({"type": "string", "pattern": f"^{_PICTURE_PATTERN}$"})
]
PublishSize = Annotated[
    tuple[int, int] | None,
    BeforeValidator(_published),
    WithJsonSchema({"type": "string", "pattern": f"^(source|{_PICTURE_PATTERN})$"}),
]


def _labels(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(label, str) and label.strip() for label in value):
        if len(set(value)) != len(value):
            raise fault(
                "a label is in the list twice", "labels are the model's classes, each once, in the model's order"
            )
        return tuple(value)
    raise fault(
        "{value} are not labels", "write coco, the path of a file with one label a line, or a list of quoted names"
    )


Labels = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_labels),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]

Share = Annotated[float, Quantity(NUMBER, 0, 1)]
Secret = Annotated[str, Field(repr=False)]
