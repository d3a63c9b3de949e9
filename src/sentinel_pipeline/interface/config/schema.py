"""The JSON Schema for editors (``sentinel schema``)."""

from __future__ import annotations

import copy
from typing import Any

import orjson

from sentinel_pipeline.interface.config.guide import Schema, resolved, root_schema

_SUBSTITUTION: Schema = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a configuration file.

    Every property has a description with its default and its range. Where a value is no plain text, a text with a
    substitution is allowed too.
    """
    schema = copy.deepcopy(root_schema())
    for section in [schema, *schema["$defs"].values()]:
        for name, field in section.get("properties", {}).items():
            section["properties"][name] = _field(field)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sentinel Pipeline configuration",
        "description": "Durations: 500ms, 5s, 2m, 1h, 7d (plain numbers are seconds). Sizes: 512MiB, 10MB."
        " Bit rates: 2M, 800k. ${VAR}, ${VAR:-default} and ${file:/run/secrets/x} are filled in.",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
    }


def _field(field: Schema) -> Schema:
    field.pop("title", None)
    if "patternProperties" in field:
        field["additionalProperties"] = False
    notes = [field.pop("description", "") or resolved(field)["description"]]
    if limits := resolved(field).pop("x-range", ""):
        notes.append(f"Range: {limits}.")
    if "default" in field and field["default"] not in (None, "", {}, []):
        notes.append(f"Default: {_written(field['default'])}.")
    return {"description": " ".join(notes), **_with_substitution(field)}


def _with_substitution(field: Schema) -> Schema:
    """Allow ``${…}`` for a number, a truth value, a choice or a text of a certain form."""
    if field.get("type") in ("number", "integer", "boolean") or "enum" in field or "pattern" in field:
        outside: Schema = {key: field.pop(key) for key in ("default", "examples", "description") if key in field}
        return {**outside, "anyOf": [field, _SUBSTITUTION]}
    if "anyOf" in field:
        field["anyOf"].append(_SUBSTITUTION)
    return field


def _written(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
