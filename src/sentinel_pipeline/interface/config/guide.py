"""What the configuration's form allows at a place in it, from the JSON Schema of its models."""

from __future__ import annotations

from functools import cache
from typing import Any

from sentinel_pipeline.interface.config.root_section import RootSection

Schema = dict[str, Any]


@cache
def root_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of the configuration, as the models give it."""
    return RootSection.model_json_schema(mode="validation")


def resolved(schema: Schema) -> Schema:
    """Return what a reference, or the something of "something or null", stands for."""
    if "$ref" in schema:
        return resolved(root_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return resolved(options[0]) if len(options) == 1 else schema


def schema_at(location: tuple[str | int, ...]) -> Schema:
    """Return the schema at a location of a pydantic error; it has a step for the kind of a rule or a sink."""
    schema = resolved(root_schema())
    for step in location:
        if "discriminator" in schema:
            schema = resolved({"$ref": schema["discriminator"]["mapping"][step]})
        elif isinstance(step, int):
            schema = resolved(schema.get("items", {}))
        else:
            schema = resolved(schema.get("properties", {}).get(step) or _entry(schema))
    return schema


def _entry(schema: Schema) -> Schema:
    """Return the schema of the entries of a mapping with free keys."""
    entries: Schema = next(iter(schema.get("patternProperties", {}).values()), {})
    return entries


def keys_of(schema: Schema) -> list[str]:
    """Return the keys that a section may have."""
    return list(schema.get("properties", {}))


def sections_with(key: str, schema: Schema) -> list[str]:
    """Return the keys of those sections right below ``schema`` that may have ``key``."""
    below = {name: resolved(child) for name, child in schema.get("properties", {}).items()}
    return [name for name, child in below.items() if key in child.get("properties", {})]


def example_of(key: str, schema: Schema) -> str:
    """Return ``key: example`` for a key of a section."""
    child = schema.get("properties", {}).get(key, {})
    examples = child.get("examples") or resolved(child).get("examples") or [child.get("const", "…")]
    return f"{key}: {examples[0]}"
