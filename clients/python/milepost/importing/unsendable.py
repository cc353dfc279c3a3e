"""Sets aside the rows of Arrow batches that no call can carry: texts that are not UTF-8, and rows that are
too long. A file that another program wrote may have either in columns of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from milepost.importing.plain import encoded, plain_rows
from milepost.importing.settings import Reading
from milepost.importing.source import NOT_UTF8, ROW_BYTES_MAX, ROW_TOO_LONG, Malformed, divisible


def set_aside(
    batches: Sequence[Any], first_row: int, reading: Reading
) -> tuple[Sequence[Any], list[Malformed], Sequence[int] | None]:
    """The batches without such rows, those rows, and the places of the others (None = all)."""
    found = [_faults(batch) for batch in batches]
    if not any(found):
        return batches, [], None
    malformed: list[Malformed] = []
    places: list[int] = []
    kept = []
    first = 0
    for batch, faults in zip(batches, found, strict=True):
        for place, (column, description) in sorted(faults.items()):
            [data] = plain_rows([batch], [place])
            field = reading.field_of(column)
            malformed.append(Malformed(first_row + first + place, field, description, data))
        sound = [place for place in range(batch.num_rows) if place not in faults]
        kept.append(batch.take(pa.array(sound, pa.int64())))
        places += [first + place for place in sound]
        first += batch.num_rows
    return kept, malformed, places


def _faults(batch: Any) -> Mapping[int, tuple[str, str]]:
    """The rows at fault: the column and why."""
    found: dict[int, tuple[str, str]] = {}
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for place, value in enumerate(encoded(column)):
                if not _is_utf8(value):
                    found.setdefault(place, (name, NOT_UTF8))
    if batch.nbytes > ROW_BYTES_MAX:
        whole = divisible(batch)
        for place in _long_rows(whole, 0):
            widest = int(np.argmax([column.slice(place, 1).nbytes for column in whole.columns]))
            found.setdefault(place, (batch.schema.names[widest], ROW_TOO_LONG))
    return found


def _long_rows(batch: Any, first: int) -> Iterator[int]:
    if batch.nbytes <= ROW_BYTES_MAX:
        return
    if batch.num_rows == 1:
        yield first
        return
    half = batch.num_rows // 2
    yield from _long_rows(batch.slice(0, half), first)
    yield from _long_rows(batch.slice(half), first + half)


def _is_utf8(value: bytes | list[bytes | None] | None) -> bool:
    try:
        for each in value if isinstance(value, list) else (value,):
            (each or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
