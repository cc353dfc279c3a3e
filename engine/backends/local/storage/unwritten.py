"""What came since the last checkpoint, until a checkpoint has committed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _later(earlier: V, later: V) -> V:
    return later


class Unwritten(Generic[K, V]):
    """Values by key that are not in the index yet. Call with the state lock held.

    `prepare` begins a checkpoint: it takes what there is as `writing`, which may be read without the lock.
    Until the checkpoint commits or is rolled back, lookups see `writing` behind what came since. `joined`
    says what a key has whose value came in both: by default the later one.
    """

    def __init__(self, joined: Callable[[V, V], V] = _later) -> None:
        self.fresh: dict[K, V] = {}
        """What came since the checkpoint under way began."""
        self.writing: dict[K, V] = {}
        self._joined = joined

    def __bool__(self) -> bool:
        return bool(self.fresh or self.writing)

    def __iter__(self) -> Iterator[K]:
        yield from self.writing
        yield from self.fresh

    def __contains__(self, key: K) -> bool:
        return key in self.fresh or key in self.writing

    def __getitem__(self, key: K) -> V:
        return self.fresh[key] if key in self.fresh else self.writing[key]

    def values(self) -> Iterator[V]:
        """Every value, the older ones first."""
        yield from self.writing.values()
        yield from self.fresh.values()

    def prepare(self) -> None:
        """Takes what there is for the checkpoint."""
        self.writing, self.fresh = self.fresh, {}

    def settle(self, key: K) -> None:
        """Finishes a checkpoint that has committed for one key."""
        del self.writing[key]

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self.writing = {}

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        later, self.fresh = self.fresh, dict(self.writing)
        for key, value in later.items():
            self.fresh[key] = self._joined(self.fresh[key], value) if key in self.fresh else value
        self.writing = {}
