"""The file of rejected rows: one JSON object a line, with why and the row itself."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from milepost._importing import RefusedRows
from milepost.importing.source import Segment

MALFORMED = "MALFORMED"


class RejectedRows:
    """Appends to a file, which is not made before there is something to write. `keep_bytes` are what earlier
    segments wrote; what stands behind them is of a segment that will be sent again, and goes.
    """

    def __init__(self, path: Path, source: Path, keep_bytes: int) -> None:
        self._path = path
        self._source = source
        self.size_bytes = keep_bytes
        if path.exists():
            os.truncate(path, min(keep_bytes, path.stat().st_size))

    def add(self, segment: Segment, refused: Sequence[RefusedRows]) -> None:
        """Writes the malformed and the refused rows of a segment, and waits until they are on the disk."""
        lines = [
            self._line(each.row, MALFORMED, each.field, each.description, each.data)
            for each in segment.malformed
        ]
        for fault in refused:
            for place, data in zip(fault.rows, _rows(segment, fault.rows), strict=True):
                row = segment.row_of(place)
                lines.append(self._line(row, fault.reason, fault.field, fault.description, data))
        if not lines:
            return
        with self._path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
            self.size_bytes = file.tell()

    def _line(self, row: int, reason: str, field: str, description: str, data: object) -> bytes:
        told = {
            "file": str(self._source),
            "row": row,
            "reason": reason,
            "field": field,
            "description": description,
            "data": data,
        }
        return json.dumps(told, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"


def _rows(segment: Segment, places: Sequence[int]) -> list[dict[str, object]]:
    """The rows at some places of what was sent."""
    import pyarrow as pa

    table = pa.Table.from_batches(segment.batches).take(pa.array(list(places), pa.int64()))
    rows: list[dict[str, object]] = table.to_pylist()
    return rows
