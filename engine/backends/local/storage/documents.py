"""Resource records: a small durable map, read from memory.

Stored in the index environment, in transactions separate from checkpoints.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import KEY_BYTES_MAX, Family, key
from engine.errors import StoreUnavailable

DOCUMENT_KEY_BYTES_MAX = KEY_BYTES_MAX - 1


class LocalDocuments:
    """The documents of one store (`engine.backends.base.Documents`)."""

    def __init__(self, index: Environment) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._closed = False
        with index.reading() as txn:
            self._documents = {
                stored[1:].decode(): bytes(value) for stored, value in txn.scan(key(Family.DOCUMENT))
            }
        self._keys = sorted(self._documents)

    def get(self, key: str) -> bytes | None:
        """The document, or None."""
        return self._documents.get(key)

    def scan(self, prefix: str, limit: int | None = None) -> Iterator[tuple[str, bytes]]:
        """Every pair whose key starts with `prefix`, in key order, or the first `limit`, as of the call."""
        with self._lock:
            start = bisect.bisect_left(self._keys, prefix)
            found = []
            for document_key in itertools.islice(self._keys, start, None if limit is None else start + limit):
                if not document_key.startswith(prefix):
                    break
                found.append((document_key, self._documents[document_key]))
        return iter(found)

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Stores and deletes, all or nothing; durable on return.

        Raises ValueError for a key of more than `DOCUMENT_KEY_BYTES_MAX` bytes, LimitExceeded when the store
        is full.
        """
        stored_keys = {document_key: _stored_key(document_key) for document_key in (*puts, *deletes)}
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed", reason="STORE_CLOSED")
            with self._index.writing() as txn:
                for document_key in deletes:
                    txn.delete(stored_keys[document_key])
                for document_key, value in puts.items():
                    txn.put(stored_keys[document_key], value)
            for document_key in deletes:
                if self._documents.pop(document_key, None) is not None:
                    del self._keys[bisect.bisect_left(self._keys, document_key)]
            for document_key, value in puts.items():
                if document_key not in self._documents:
                    bisect.insort(self._keys, document_key)
                self._documents[document_key] = value

    def close(self) -> None:
        """Refuses further commits."""
        with self._lock:
            self._closed = True


def _stored_key(document_key: str) -> bytes:
    encoded = document_key.encode()
    if not 0 < len(encoded) <= DOCUMENT_KEY_BYTES_MAX:
        raise ValueError(f"a document key must have 1 to {DOCUMENT_KEY_BYTES_MAX} bytes, got {len(encoded)}")
    return key(Family.DOCUMENT, encoded)
