"""Collects the faults of a message, so that a caller sees all of them at once."""

from __future__ import annotations

from engine.errors import InvalidInput, Violation


class ShapeFaults:
    """Collects violations while a message is converted; `raise_if_any` ends the conversion."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, path: str, description: str) -> None:
        """Adds a fault of the field at `path`."""
        self._violations.append(Violation(path, description))

    def raise_if_any(self, *, reason: str = "") -> None:
        """Raises InvalidInput with every fault, if there are any."""
        if self._violations:
            raise InvalidInput(self._violations, reason=reason)
