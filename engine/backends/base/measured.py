"""What a store measures about itself. Optional: a store without this protocol has only its `Stats`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from engine.measures import Measure


@runtime_checkable
class Measured(Protocol):
    """Counts and times what operators watch."""

    def measures(self) -> Iterator[Measure]:
        """All figures of this moment. Free to read."""
        ...
