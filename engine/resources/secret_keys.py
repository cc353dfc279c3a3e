"""Encryption of the secrets in the store, by keys that are kept apart from it.

The key file has one Fernet key a line (AES-128-CBC with HMAC-SHA-256; the base64 of 32 bytes). The first one
encrypts, all of them decrypt, so that a key is replaced by a new first line. Backups of the store do not have
the file: without it, what they hold of secrets is useless.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from engine.errors import FailedPrecondition

KEYS_MAX = 16
FILE_MODE = 0o600
REASON = "SECRET_KEY_UNUSABLE"


class SecretKeys:
    """The keys in a file, read once. Safe to call from several threads."""

    def __init__(self, file: Path | None, *, may_create: bool = True) -> None:
        """`file` is created when the first secret is encrypted, unless it exists or has to: `may_create`.
        Without one, there are no secrets. Raises FailedPrecondition for a file that cannot be used.
        """
        self._file = file
        self._lock = threading.Lock()
        self._keys: tuple[Fernet, ...] = ()
        if file is not None and (file.exists() or not may_create):
            self._keys = _read(file)

    @classmethod
    def of_this_process(cls) -> SecretKeys:
        """A key that ends with the process, for a store that does."""
        keys = cls(None)
        keys._keys = (Fernet(Fernet.generate_key()),)
        return keys

    def encrypt(self, secrets: Mapping[str, str]) -> bytes:
        """Encrypts values by name. Empty when there are none. Raises FailedPrecondition without a key."""
        if not secrets:
            return b""
        with self._lock:
            if not self._keys:
                self._keys = (self._created(),)
        return self._keys[0].encrypt(msgspec.json.encode(secrets))

    def decrypt(self, encrypted: bytes) -> dict[str, str] | None:
        """The values that were encrypted; None when no key fits."""
        if not encrypted:
            return {}
        if not self._keys:
            return None
        try:
            return msgspec.json.decode(MultiFernet(self._keys).decrypt(encrypted), type=dict[str, str])
        except InvalidToken:
            return None

    def is_current(self, encrypted: bytes) -> bool:
        """Whether the first key encrypted it, or nothing is."""
        if not encrypted:
            return True
        try:
            self._keys[0].decrypt(encrypted)
        except (IndexError, InvalidToken):
            return False
        return True

    def _created(self) -> Fernet:
        if self._file is None:
            raise FailedPrecondition("this engine has no file for the key of secrets", reason=REASON)
        key = Fernet.generate_key()
        try:
            _write(self._file, key + b"\n")
        except OSError as error:
            raise FailedPrecondition(
                f"the key file {self._file} cannot be written: {error.strerror}", reason=REASON
            ) from error
        return Fernet(key)


def _read(file: Path) -> tuple[Fernet, ...]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise FailedPrecondition(
            f"the key file {file} cannot be read: {error.strerror}", reason=REASON
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            found.append(Fernet(text))
        except ValueError as error:
            raise FailedPrecondition(
                f"line {number} of the key file {file} is no key: expected the URL-safe base64 of 32 bytes",
                reason=REASON,
            ) from error
    if not 1 <= len(found) <= KEYS_MAX:
        raise FailedPrecondition(
            f"the key file {file} has {len(found)} keys; 1 to {KEYS_MAX} are expected", reason=REASON
        )
    return tuple(found)


def _write(file: Path, content: bytes) -> None:
    """Creates the file with all of its content or not at all, for its owner alone. Raises FileExistsError."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".secret-")
    try:
        with os.fdopen(descriptor, "wb") as written:
            written.write(content)
            written.flush()
            os.fchmod(written.fileno(), FILE_MODE)
            os.fsync(written.fileno())
        os.link(name, file)
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
