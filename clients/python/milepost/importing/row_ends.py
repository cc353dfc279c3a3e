"""Cuts CSV bytes into blocks at the ends of rows.

Each block is read by itself. A row ends with CR, LF or both, outside of quotes. A quote opens only at the
start of a value. Within quotes, two quotes stand for one, and a single one closes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

QUOTE = b'"'
QUOTED_BYTES_MAX = 64 * 1024 * 1024
"""A longer row probably has a quote that is not closed."""
_STARTS = b'\r\n"'


class OpenQuote(ValueError):
    """A row has a quote that is not closed before the end of the file or `QUOTED_BYTES_MAX`."""


def blocks(file: BinaryIO, delimiter: bytes, block_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in blocks of whole rows. Raises OpenQuote after the rows before such a quote."""
    rest = b""
    while data := file.read(max(block_bytes, len(rest))):
        rest += data
        end = _rows_end(rest, delimiter)
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > QUOTED_BYTES_MAX:
            raise OpenQuote(f"is longer than {QUOTED_BYTES_MAX:,} bytes: is a quote not closed?")
    if rest:
        ended = rest + b"\n"
        end = _rows_end(ended, delimiter)
        if end:
            yield ended[:end]
        if end < len(ended):
            raise OpenQuote("has a quote that is not closed before the end of the file")


def first_row_end(data: bytes, delimiter: bytes) -> int | None:
    """The length of the first row with its line end; None if it has none."""
    at = 0
    spans = _spans(data, delimiter)
    span = next(spans, None)
    while True:
        ends = [end for end in (data.find(b"\n", at), data.find(b"\r", at)) if end >= 0]
        if not ends:
            return None
        end = min(ends)
        while span is not None and span[1] <= end:
            span = next(spans, None)
        if span is None or end < span[0]:
            return end + (2 if data[end : end + 2] == b"\r\n" else 1)
        at = span[1]


def _rows_end(data: bytes, delimiter: bytes) -> int:
    """The length of the complete rows."""
    # A CR at the end may be the first half of a line end.
    stop = len(data) - data.endswith(b"\r")
    if QUOTE not in data:
        return _last_line_end(data, stop) + 1
    quotes = _quotes(data, delimiter)
    while True:
        end = _last_line_end(data, stop)
        before = int(np.searchsorted(quotes, end))
        if end < 0 or before % 2 == 0:
            return end + 1
        stop = int(quotes[before - 1])


def _last_line_end(data: bytes, stop: int) -> int:
    return max(data.rfind(b"\n", 0, stop), data.rfind(b"\r", 0, stop))


def _quotes(data: bytes, delimiter: bytes) -> npt.NDArray[np.int64]:
    """The positions of quotes, alternately opening and closing."""
    everything = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(everything == QUOTE[0])
    opening = quotes[::2]
    before = everything[opening - 1]
    starts = np.isin(before, np.frombuffer(_STARTS + delimiter, np.uint8)) | (opening == 0)
    if starts.all():
        # Two quotes in a row close and open: the same as a quote within quotes.
        return quotes
    return np.array([place for span in _spans(data, delimiter) for place in span], np.int64)


def _spans(data: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """The opening and closing quote of each quoted value. One that is not closed ends with the data."""
    starts = {*b"\r\n", delimiter[0]}
    at = data.find(QUOTE)
    while at >= 0:
        if at and data[at - 1] not in starts:
            # A quote inside an unquoted value is part of it.
            at = data.find(QUOTE, at + 1)
            continue
        end = data.find(QUOTE, at + 1)
        while end >= 0 and data[end + 1 : end + 2] == QUOTE:
            end = data.find(QUOTE, end + 2)
        if end < 0:
            yield at, len(data)
            return
        yield at, end
        at = data.find(QUOTE, end + 1)
