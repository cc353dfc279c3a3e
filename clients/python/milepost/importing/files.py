"""Opens files as bytes: compressed or not, from a path or from standard input."""

from __future__ import annotations

import codecs
import gzip
import os
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from milepost.importing.errors import CannotImport

COMPRESSED_SUFFIX = ".gz"
GZIP_MAGIC = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_LOOKED_AT_BYTES = 4096
_KEPT_PREFIX = "milepost-import-"

UNREADABLE = (EOFError, OSError, zlib.error)
"""The exceptions of reading a file, compressed or not."""


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a UTF-8 file, unpacked, without a byte order mark. Compression shows in the first bytes,
    whatever the name. Raises CannotImport for UTF-16 and for files that cannot be read.
    """
    try:
        with path.open("rb") as plain:
            file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if _is_packed(plain) else plain
            _check_encoding(path, file)
            yield file
    except UNREADABLE as error:
        raise CannotImport(f"{path} cannot be read: {error}") from error


def _is_packed(plain: BinaryIO) -> bool:
    start = plain.read(len(GZIP_MAGIC))
    plain.seek(0)
    return start == GZIP_MAGIC


def conversion(path: Path, command: str) -> str:
    """The shell command that converts a file, packed or not, into another one beside it."""
    name = path.name
    with path.open("rb") as plain:
        is_packed = _is_packed(plain)
    made = name[: -len(COMPRESSED_SUFFIX)] if name.lower().endswith(COMPRESSED_SUFFIX) else name
    source = f"gzip -dc {shlex.quote(name)} | {command}" if is_packed else f"{command} {shlex.quote(name)}"
    return f"{source} > {shlex.quote(f'converted-{made}')}"


def _check_encoding(path: Path, file: BinaryIO) -> None:
    start = file.read(_LOOKED_AT_BYTES)
    if (encoding := _wide_encoding(start)) is not None:
        raise CannotImport(
            f"{path}, line 1: the file is {encoding[:6]}, not UTF-8. Convert it:"
            f" {conversion(path, f'iconv -f {encoding} -t UTF-8')}"
        )
    # After the first line, a zero byte is an ordinary character.
    if b"\0" in start.lstrip(b"\r\n").split(b"\n", 1)[0]:
        raise CannotImport(
            f"{path}, line 1: the file has zero bytes, so it is not UTF-8 text. Does it have another format?"
        )
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)


def _wide_encoding(start: bytes) -> str | None:
    """The name of the encoding if a file starts like UTF-32 or UTF-16, the latter also without a byte order
    mark.
    """
    if start.startswith(_UTF32):
        return "UTF-32"
    if start.startswith(_UTF16):
        return "UTF-16"
    if start.count(b"\0") * 3 <= len(start):
        return None
    return "UTF-16LE" if start[1::2].count(b"\0") >= start[::2].count(b"\0") else "UTF-16BE"


KEPT_INPUT = "standard-input"


def is_kept_input(path: Path) -> bool:
    """Whether `kept_input` made the file."""
    return path.name == KEPT_INPUT and path.parent.name.startswith(_KEPT_PREFIX)


@contextmanager
def kept_input(stream: BinaryIO) -> Iterator[Path]:
    """Standard input as a temporary file, since an import reads its file more than once. Its time of change
    is 0, so that the same content is the same import.
    """
    with tempfile.TemporaryDirectory(prefix=_KEPT_PREFIX) as directory:
        path = Path(directory) / KEPT_INPUT
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1024 * 1024)
        os.utime(path, (0, 0))
        yield path
