"""Collects the faults of a message, so that a caller sees all of them at once."""

from __future__ import annotations

from engine.errors import InvalidInput, Violation, Violations


class ShapeFaults:
    """Collects violations while a message is converted; `raise_if_any` ends the conversion."""

    def __init__(self) -> None:
        self.violations = Violations()

    def add(self, path: str, description: str) -> None:
        """Adds a fault of the field at `path`."""
        self.violations.add(Violation(path, description))

    def raise_if_any(self, *, reason: str = "") -> None:
        """Raises InvalidInput with the faults, if there are any."""
        if self.violations:
            raise InvalidInput(self.violations, reason=reason)
