"""What all sections of the configuration have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A mapping with fixed keys. A section that is there but empty (YAML's null) has its defaults."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        populate_by_name=False,
        regex_engine="python-re",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, data: Any) -> Any:
        return {} if data is None else data


def optional(written: Any, description: str, *, secret: bool = False, example: Any = None) -> Any:
    """Return a field with a default, which is written as a person would write it (``"5s"``, ``{}``)."""
    return Field(written, validate_default=True, repr=not secret, description=description, examples=_examples(example))


def required(description: str, *, example: Any = None, secret: bool = False, alias: str | None = None) -> Any:
    """Return a field that must be given. ``example`` is what the problem says to add when it is not."""
    return Field(repr=not secret, description=description, alias=alias, examples=_examples(example))


def _examples(example: Any) -> list[Any] | None:
    return None if example is None else [example]
