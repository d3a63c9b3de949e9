"""A line chart as SVG, written by hand: no plotting library for one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 50, 60
_INK, _GRID, _COLOURS = "#1f2933", "#d9e2ec", ("#1769aa", "#c2410c", "#15803d", "#7c3aed")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, its points (x, y), whether it is a target rather than a measurement."""

    name: str
    points: Sequence[tuple[float, float]]
    target: bool = False


def svg(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """Return a chart whose y axis begins at 0."""
    most_x = max(x for line in lines for x, _ in line.points)
    most_y = _nice(max(y for line in lines for _, y in line.points) * 1.1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="13" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        *_grid(lines, most_x, most_y),
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(18 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for number, line in enumerate(lines):
        parts += _drawn(line, _COLOURS[number % len(_COLOURS)], most_x, most_y)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, most_x: float, most_y: float) -> list[str]:
    places = [(_x(x, most_x), _y(y, most_y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 5"' if line.target else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>']
    if not line.target:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
    x, y = places[-1]
    return [*parts, f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(line.name)}</text>']


def _grid(lines: Sequence[Line], most_x: float, most_y: float) -> list[str]:
    parts = []
    for step in range(6):
        value = most_y * step / 5
        y = _y(value, most_y)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for x in sorted({x for line in lines for x, _ in line.points}):
        parts.append(f'<text x="{_x(x, most_x):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{x:g}</text>')
    return parts


def _x(value: float, most: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / most


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / most


def _nice(value: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten that is not below ``value``."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)
