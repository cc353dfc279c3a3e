"""The configuration file: TOML, one key for each setting, without tables.

data_dir = "/var/lib/milepost"
port = 7443
map_bytes = "256GiB"
checkpoint_s = "30s"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path

CONFIG_FILE_BYTES_MAX = 1 << 20


class InvalidFile(ValueError):
    """The file cannot be read or has a fault. The message names the file."""


def read(file: Path) -> dict[str, str]:
    """Setting → its value as text, as a flag would give it. Raises InvalidFile."""
    try:
        with file.open("rb") as stream:
            data = stream.read(CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidFile(f"{file} cannot be read: {error.strerror}") from None
    if len(data) > CONFIG_FILE_BYTES_MAX:
        raise InvalidFile(f"{file} has more than {CONFIG_FILE_BYTES_MAX:,} bytes")
    try:
        content = tomllib.loads(data.decode())
    except ValueError as error:
        raise InvalidFile(f"{file} is no TOML: {error}") from None
    return {key: _text(file, key, value) for key, value in content.items()}


def check_keys(file: Path, given: Collection[str], known: Collection[str]) -> None:
    """Raises InvalidFile for a key that is no setting, with the nearest that is one."""
    for key in given:
        if key not in known:
            raise InvalidFile(f"{file}: {key} is no setting{nearest(key, known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """ "; did you mean port?" for a misspelt name; "" when none is near."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _text(file: Path, key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    kind = "a table" if isinstance(value, dict) else type(value).__name__
    raise InvalidFile(f"{file}: {key} must be a text, a number, true or false, got {kind}")
