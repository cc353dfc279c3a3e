"""Places in a document, as messages show them: file, line, column and path."""

from __future__ import annotations

from functools import cached_property

from milepost.documents.positions import Positions


class Places:
    """The places in one text. `file` is its name for messages."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._text = text

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self._text)

    def line_of(self, path: str) -> int | None:
        """The line of a field, from 1."""
        found = self._positions.find(path)
        return None if found is None else found[0]

    def position(self, path: str) -> str:
        """`rules.yaml:3:12` for the field at a path."""
        return ":".join(map(str, (self.file, *(self._positions.find(path) or ()))))

    def of(self, path: str, position: tuple[int, int] | None = None) -> str:
        """`rules.yaml:3:12: milestones[0].id` for a path; at `position` where that is known already."""
        place = self.position(path) if position is None else ":".join(map(str, (self.file, *position)))
        return ": ".join(filter(None, [place, path]))
