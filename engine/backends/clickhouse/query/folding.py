"""Case folding as Python does it.

ClickHouse folds by its own tables of Unicode, which may be newer or older than Python's. Folding works on
single characters, so those that the two fold differently are looked up, and ClickHouse folds all others.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable

import msgspec

from engine.backends.clickhouse.query.literals import text, texts

_SURROGATES = range(0xD800, 0xE000)
"""These are no characters."""

FOLDED_CHARACTERS = (
    "SELECT number, folded FROM ("
    "SELECT number, decodeXMLComponent(concat('&#', toString(number), ';')) AS x, caseFoldUTF8(x) AS folded"
    f" FROM numbers({sys.maxunicode + 1})"
    f" WHERE number > 0 AND (number < {_SURROGATES.start} OR number >= {_SURROGATES.stop})"
    ") WHERE folded != x"
)
"""Every character that a server changes when it folds, by its number."""


class Folding(msgspec.Struct, frozen=True):
    """The characters that a server folds otherwise than Python, and what Python makes of each."""

    otherwise: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, folded: Iterable[tuple[int, str]]) -> Folding:
        """From the rows of `FOLDED_CHARACTERS`."""
        theirs = {chr(number): text for number, text in folded}
        ours = _folded_by_python()
        differing = sorted(
            character
            for character in theirs.keys() | ours.keys()
            if theirs.get(character) != ours.get(character)
        )
        return cls(tuple((character, character.casefold()) for character in differing))

    def joined(self, other: Folding) -> Folding:
        """The characters of both, for a statement that two servers run."""
        return Folding(tuple(sorted({*self.otherwise, *other.otherwise})))

    def of_string(self, string: str) -> str:
        """The folded string, as an expression."""
        if not self.otherwise:
            return f"caseFoldUTF8({string})"
        characters = "".join(character for character, _ in self.otherwise)
        found = f"match({string}, {text(f'[{characters}]')})"
        pieces = f"extractAll({string}, {text(f'[{characters}]|[^{characters}]+')})"
        one = (
            f"transform(piece, {texts(character for character, _ in self.otherwise)}, "
            f"{texts(folded for _, folded in self.otherwise)}, caseFoldUTF8(piece))"
        )
        return f"if({found}, arrayStringConcat(arrayMap(piece -> {one}, {pieces})), caseFoldUTF8({string}))"


@functools.cache
def _folded_by_python() -> dict[str, str]:
    characters = (chr(number) for number in range(1, sys.maxunicode + 1) if number not in _SURROGATES)
    return {character: character.casefold() for character in characters if character.casefold() != character}
