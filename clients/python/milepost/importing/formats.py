"""The file formats and their readers."""

from __future__ import annotations

import enum
from pathlib import Path

from milepost.importing.errors import CannotImport
from milepost.importing.files import COMPRESSED_SUFFIX
from milepost.importing.settings import Reading
from milepost.importing.source import Source


class Format(enum.StrEnum):
    """The format of a file. AUTO: by its name."""

    AUTO = "auto"
    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"


SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
}


def open_source(path: Path, format_: Format, reading: Reading, segment_rows: int) -> Source:
    """Opens a file for reading. Raises CannotImport."""
    if not path.exists():
        raise CannotImport(f"{path} does not exist")
    if path.is_dir():
        raise CannotImport(f"{path} is a directory: name the files in it")
    if not path.is_file():
        # A file is read more than once.
        raise CannotImport(
            f"{path} is a pipe or a device: send its content to the standard input, and name -"
        )
    format_ = format_of(path) if format_ is Format.AUTO else format_
    try:
        if format_ is Format.PARQUET:
            from milepost.importing.parquet import ParquetSource

            return ParquetSource(path, reading, segment_rows)
        if format_ is Format.CSV:
            from milepost.importing.csv import CsvSource

            return CsvSource(path, reading, segment_rows)
        from milepost.importing.ndjson import NdjsonSource

        return NdjsonSource(path, reading, segment_rows)
    except ModuleNotFoundError as error:
        raise CannotImport("importing needs pyarrow: pip install 'milepost[import]'") from error


def format_of(path: Path) -> Format:
    """The format by the file's name, apart from `.gz`. Raises CannotImport."""
    name = path.name.lower().removesuffix(COMPRESSED_SUFFIX)
    format_ = SUFFIXES.get(Path(name).suffix)
    if format_ is None:
        raise CannotImport(f"the name {path.name} shows no format: give --format parquet, csv or ndjson")
    return format_
