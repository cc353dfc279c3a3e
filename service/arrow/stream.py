"""Reads an Arrow IPC stream in chunks and cuts it into batches to append."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from engine.errors import InvalidInput
from service.arrow.messages import broken, checked, too_large
from service.arrow.texts import viewed_bytes
from service.limits import IMPORT_BATCH_ROWS, IMPORT_GATHERED_BYTES_MAX

BROKEN = (pa.ArrowException, UnicodeDecodeError, OSError)
"""Errors from reading a malformed Arrow stream, also late ones: names are decoded when used."""

_NOTHING = memoryview(b"")


def unreadable(error: Exception) -> InvalidInput:
    """The error for a stream that Arrow cannot read."""
    return broken(str(error).partition("\n")[0])


class _Pieces:
    """The chunks as a readable file. Each message is checked before its body is returned."""

    closed = False

    def __init__(self, pieces: Iterator[bytes], message_bytes_max: int) -> None:
        self._pieces = pieces
        self._piece = _NOTHING
        self._parts = checked(lambda size: b"".join(self._taken(size)), message_bytes_max)
        self._part = _NOTHING
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes | memoryview:
        """`size` bytes, fewer only at the end. Raises InvalidInput for a message over a limit, and any error
        of the chunks.
        """
        try:
            given = list(self._given(size))
        except Exception as error:
            self.failure = error
            raise
        return given[0] if len(given) == 1 else b"".join(given)

    def _given(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._part:
                part = next(self._parts, None)
                if part is None:
                    return
                self._part = memoryview(part)
            given, self._part = self._part[:size], self._part[size:] or _NOTHING
            size -= len(given)
            if given:
                yield given

    def _taken(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._piece = memoryview(piece)
            taken, self._piece = self._piece[:size], self._piece[size:]
            size -= len(taken)
            yield taken


class RecordBatches:
    """The record batches of a stream, checked so that reading them is safe."""

    def __init__(self, pieces: Iterator[bytes], batch_bytes_max: int) -> None:
        """Reads the schema. Raises InvalidInput when there is none, and any error of the chunks."""
        self._pieces = _Pieces(pieces, batch_bytes_max)
        self._batch_bytes_max = batch_bytes_max
        with self._refusing():
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._pieces, mode="r"))
        self.schema: pa.Schema = self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Raises as the constructor, and InvalidInput for a record batch that is malformed or too large."""
        while True:
            with self._refusing():
                try:
                    batch = self._reader.read_next_batch()
                except StopIteration:
                    return
                batch.validate(full=True)
            size_bytes = batch.nbytes + sum(viewed_bytes(column) for column in batch.columns)
            if size_bytes > self._batch_bytes_max:
                raise too_large(size_bytes, self._batch_bytes_max)
            yield batch

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Raises InvalidInput for what Arrow cannot read, and errors of the chunks as they are."""
        try:
            yield
        except BROKEN as error:
            if self._pieces.failure is not None:
                raise self._pieces.failure from None
            raise unreadable(error) from error
        finally:
            # Its traceback leads to Arrow's file, and that to these chunks, by a way that Python's collector
            # does not see. So none of them would ever be freed.
            self._pieces.failure = None


def recut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most `IMPORT_BATCH_ROWS`, with small batches merged.

    Depends only on the record batches, so a repeated import is cut in the same way.
    """
    gathered: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        fits = rows + batch.num_rows <= IMPORT_BATCH_ROWS
        if gathered and not (fits and size_bytes + batch.nbytes <= IMPORT_GATHERED_BYTES_MAX):
            yield from _joined(gathered)
            gathered, rows, size_bytes = [], 0, 0
        while batch.num_rows > IMPORT_BATCH_ROWS:
            yield batch.slice(0, IMPORT_BATCH_ROWS)
            batch = batch.slice(IMPORT_BATCH_ROWS)
        if batch.num_rows:
            gathered.append(batch)
            rows += batch.num_rows
            size_bytes += batch.nbytes
        if rows == IMPORT_BATCH_ROWS:
            yield from _joined(gathered)
            gathered, rows, size_bytes = [], 0, 0
    if gathered:
        yield from _joined(gathered)


def _joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(batches) == 1:
        return batches
    try:
        return [pa.concat_batches(batches)]
    except pa.ArrowInvalid:
        # Their combined dictionaries have more entries than their code type can index.
        return batches


def without_first(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches without their first `rows` rows."""
    for batch in batches:
        skipped = min(rows, batch.num_rows)
        rows -= skipped
        if skipped < batch.num_rows:
            yield batch.slice(skipped)
