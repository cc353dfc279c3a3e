"""Values of enums as words: `web` for INPUT_KIND_WEB.

>>> word_of(InputKind, INPUT_KIND_WEB)
'web'
>>> value_of(InputKind, "web") == INPUT_KIND_WEB
True
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import typer

Enum: TypeAlias = Any
"""An enum of the contract. In the stubs each has a type of its own."""

_UNSPECIFIED = 0


def words_of(enum: Enum) -> list[str]:
    """The word of every value but the unspecified one, in order of number."""
    return [word_of(enum, value) for value in sorted(enum.values()) if value != _UNSPECIFIED]


def word_of(enum: Enum, value: int) -> str:
    """The word of a value; empty for the unspecified one."""
    if value == _UNSPECIFIED:
        return ""
    name: str = enum.Name(value)
    return name.removeprefix(_prefix(enum)).lower()


def value_of(enum: Enum, word: str) -> int:
    """The value of a word. Raises BadParameter for any other."""
    by_word: dict[str, int] = {word_of(enum, value): value for value in enum.values()}
    return by_word[one_of(words_of(enum))(word)]


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """The parser of an option that takes one of these words."""

    def parsed(word: str) -> str:
        if word not in words:
            raise typer.BadParameter(f"must be one of {', '.join(words)}, not {word!r}")
        return word

    return parsed


def choice(words: Sequence[str]) -> str:
    """How the help shows an option that takes one of these words: `[web|feed]`."""
    return f"[{'|'.join(words)}]"


def _prefix(enum: Enum) -> str:
    """INPUT_KIND_ for `InputKind`."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", enum.DESCRIPTOR.name).upper() + "_"
