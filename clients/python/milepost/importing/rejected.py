"""The file of rejected rows: one JSON object per line, with the reason and the row."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from milepost._importing import RefusedRows
from milepost.importing.plain import plain_rows
from milepost.importing.replacing import replaced
from milepost.importing.source import Segment

MALFORMED = "MALFORMED"


class RejectedRows:
    """Appends the rejected rows of one source to a file. The file is created with the first row.

    Several sources may share the file. Before the first segment is added, the rows of this source from
    `first_row` on are removed: their segment is sent again, or the import starts over. None removes nothing.
    """

    def __init__(self, path: Path, source: Path, first_row: int | None) -> None:
        self._path = path
        self._source = source
        self._first_row = first_row

    def add(self, segment: Segment, refused: Sequence[RefusedRows]) -> None:
        """Writes the malformed and the refused rows of a segment, and waits until they are on disk."""
        self._remove_old()
        lines = [
            self._line(each.row, MALFORMED, each.field, each.description, each.data)
            for each in segment.malformed
        ]
        for fault in refused:
            for place, data in zip(fault.rows, plain_rows(segment.batches, fault.rows), strict=True):
                row = segment.row_of(place)
                lines.append(self._line(row, fault.reason, fault.field, fault.description, data))
        if not lines:
            return
        with self._path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _remove_old(self) -> None:
        first_row, self._first_row = self._first_row, None
        if first_row is None or not self._path.exists():
            return
        with self._path.open("rb") as old:
            if all(self._stays(line, first_row) for line in old):
                return
            old.seek(0)
            with replaced(self._path) as new:
                new.writelines(line for line in old if self._stays(line, first_row))
        if not self._path.stat().st_size:
            self._path.unlink()

    def _stays(self, line: bytes, first_row: int) -> bool:
        try:
            written = json.loads(line)
            return bool(written["file"] != str(self._source) or written["row"] < first_row)
        except (ValueError, KeyError, TypeError):
            # Without an end, a crash cut the line off, and its segment is sent again. Others are not ours.
            return line.endswith(b"\n")

    def _line(self, row: int, reason: str, field: str, description: str, data: object) -> bytes:
        fields = {
            "file": str(self._source),
            "row": row,
            "reason": reason,
            "field": field,
            "description": description,
            "data": data,
        }
        return json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"
