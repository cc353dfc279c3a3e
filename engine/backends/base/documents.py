"""Documents: the records of resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable


class Documents(Protocol):
    """A small durable map for resource records (journeys, audiences, connections…), apart from users' data.

    `commit` is atomic and durable when it returns.
    """

    def get(self, key: str) -> bytes | None:
        """The document, or None when there is none."""
        ...

    def scan(self, prefix: str, limit: int | None = None) -> Iterator[tuple[str, bytes]]:
        """Every pair whose key starts with `prefix`, in key order, or the first `limit`."""
        ...

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Writes and deletes atomically. Raises ValueError, changing nothing, when a key is not 1 to 510
        bytes long.
        """
        ...


@runtime_checkable
class DocumentKeeper(Protocol):
    """Keeps documents."""

    @property
    def documents(self) -> Documents:
        """The documents of this store."""
        ...
