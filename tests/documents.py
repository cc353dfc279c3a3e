"""Documents in memory, for what needs no store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


class FewDocuments:
    """Keeps documents in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """The document, or None."""
        return self.kept.get(key)

    def scan(self, prefix: str, limit: int | None = None) -> Iterator[tuple[str, bytes]]:
        """Every pair whose key starts with `prefix`, or the first `limit`."""
        yield from sorted(pair for pair in self.kept.items() if pair[0].startswith(prefix))[:limit]

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Writes and deletes."""
        self.kept.update(puts)
        for key in deletes:
            self.kept.pop(key, None)
