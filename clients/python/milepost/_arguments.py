"""Checks of arguments: a slip is a TypeError that names the argument, what came, and what is expected."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

SHOWN_CHARACTERS_MAX = 60


def shown(value: object) -> str:
    """A value for a message: its type, and the beginning of what it is."""
    cut = shown_value(value)
    return cut if value is None else f"{type(value).__name__} {cut}"


def shown_value(value: object) -> str:
    """The beginning of what a value is."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def wrong(argument: str, expected: str, value: object) -> TypeError:
    """The error of an argument of the wrong type."""
    return TypeError(f"{argument}: expected {expected}, not {shown(value)}")


def require_text(**values: object) -> None:
    """Raises TypeError for the first argument that is not a str."""
    for argument, value in values.items():
        if not isinstance(value, str):
            raise wrong(argument, "a str", value)


def require_mapping(argument: str, value: Any) -> None:
    """Raises TypeError unless the value is a mapping."""
    if not isinstance(value, Mapping):
        raise wrong(argument, "a mapping of names to values", value)


def require_several(**values: object) -> None:
    """Raises TypeError for the first argument that is one value in the place of several. One str would be
    taken as its characters, and one mapping as its keys.
    """
    for argument, value in values.items():
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable | AsyncIterable):
            form = f": write [{shown_value(value)}]" if isinstance(value, str) else ""
            raise TypeError(f"{wrong(argument, 'several in a list', value)}{form}")
