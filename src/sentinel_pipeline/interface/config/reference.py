"""The tables of docs/configuration.md, from the same models that check a file.

``python -m sentinel_pipeline.interface.config.reference`` prints them; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_pipeline.interface.config.guide import Schema
from sentinel_pipeline.interface.config.schema import json_schema
from sentinel_pipeline.interface.config.unsupported import UNSUPPORTED

_MISSING = {".".join(feature.path).replace("*", "<id>"): feature for feature in UNSUPPORTED}


def reference() -> str:
    """Return one Markdown table per section, in the order of the file."""
    tables = [_table(path, kind, section) for path, kind, section in _sections("", "", json_schema())]
    return "\n\n".join(dict.fromkeys(tables))  # what all kinds of a section have below them comes once per kind


def _sections(path: str, kind: str, schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Yield the path, kind and schema of each section, depth first; ``<id>`` and ``[]`` are any key and any item."""
    yield path, kind, schema
    for name, field in schema["properties"].items():
        below = f"{path}.{name}" if path else name
        entries = next(iter(field.get("patternProperties", {}).values()), None)
        if entries is not None:
            yield from _below(f"{below}.<id>", entries)
        elif "items" in field:
            yield from _below(f"{below}[]", field["items"])
        else:
            yield from _below(below, next((option for option in field.get("anyOf", ()) if "$ref" in option), field))


def _below(path: str, schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    if "discriminator" in schema:
        key = schema["discriminator"]["propertyName"]
        for kind, target in schema["discriminator"]["mapping"].items():
            yield from _sections(path, f" with `{key}: {kind}`", _definition(target))
    elif "$ref" in schema:
        yield from _sections(path, "", _definition(schema["$ref"]))


def _definition(target: str) -> Schema:
    found: Schema = json_schema()["$defs"][target.rpartition("/")[2]]
    return found


def _table(path: str, kind: str, section: Schema) -> str:
    title = f"### `{path}`{kind}" if path else "### The file"
    text = f"{section['description']}\n\n" if path else ""
    needed = section.get("required", ())
    rows = [
        _row(f"{path}.{name}" if path else name, field, name in needed) for name, field in section["properties"].items()
    ]
    return f"{title}\n\n{text}| key | meaning |\n| --- | --- |\n" + "\n".join(rows)


def _row(path: str, field: Schema, needed: bool) -> str:
    choices = next((option["enum"] for option in [field, *field.get("anyOf", ())] if "enum" in option), ())
    text = field["description"] + (f" One of: {', '.join(choices)}." if choices else "")
    if path in _MISSING:
        text += f" **Not in this version:** {_MISSING[path].what}; {_MISSING[path].remedy}."
    name = path.rpartition(".")[2]
    return f"| `{name}`{' (required)' if needed else ''} | {text} |"


if __name__ == "__main__":
    print(reference())  # noqa: T201 - this is what the module is for when it is run
