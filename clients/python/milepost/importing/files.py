"""Files as streams of bytes: compressed or not, from a path or from the standard input."""

from __future__ import annotations

import codecs
import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from milepost.importing.errors import CannotImport

GZIP_MAGIC = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LOOKED_AT_BYTES = 4096
_KEPT_PREFIX = "milepost-import-"

UNREADABLE = (EOFError, OSError, zlib.error)
"""What reading a file raises, compressed ones included."""


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a UTF-8 file, unpacked, without a byte order mark. A compressed file is known by its first
    bytes, whatever its name. Raises CannotImport for UTF-16, and for what cannot be read.
    """
    try:
        with path.open("rb") as plain:
            is_packed = plain.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            plain.seek(0)
            file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if is_packed else plain
            _check_encoding(path, file)
            yield file
    except UNREADABLE as error:
        raise CannotImport(f"{path} cannot be read: {error}") from error


def _check_encoding(path: Path, file: BinaryIO) -> None:
    start = file.read(_LOOKED_AT_BYTES)
    if (encoding := _utf16(start)) is not None:
        raise CannotImport(
            f"{path}, line 1: the file is UTF-16, not UTF-8. Convert it:"
            f" iconv -f {encoding} -t UTF-8 {path.name} > converted-{path.name}"
        )
    # Further down a zero byte is a character like any other, wherever it stands.
    if b"\0" in start.lstrip(b"\r\n").split(b"\n", 1)[0]:
        raise CannotImport(
            f"{path}, line 1: the file has zero bytes and is no UTF-8 text: is it of another format?"
        )
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)


def _utf16(start: bytes) -> str | None:
    """The encoding's name when a file starts like UTF-16, with a byte order mark or without."""
    if start.startswith(_UTF16):
        return "UTF-16"
    if start.count(b"\0") * 3 <= len(start):
        return None
    return "UTF-16LE" if start[1::2].count(b"\0") >= start[::2].count(b"\0") else "UTF-16BE"


KEPT_INPUT = "standard-input"


def is_kept_input(path: Path) -> bool:
    """Whether a file is one of `kept_input`."""
    return path.name == KEPT_INPUT and path.parent.name.startswith(_KEPT_PREFIX)


@contextmanager
def kept_input(stream: BinaryIO) -> Iterator[Path]:
    """The standard input as a file, for as long as it is imported: it is read more than once, and sent again
    when the service was out of reach. The same content is the same import, so the time of change is always 0.
    """
    with tempfile.TemporaryDirectory(prefix=_KEPT_PREFIX) as directory:
        path = Path(directory) / KEPT_INPUT
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1024 * 1024)
        os.utime(path, (0, 0))
        yield path
