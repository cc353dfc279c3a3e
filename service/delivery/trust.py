"""Whom outputs trust: contexts for TLS from a file of CAs."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path


def trusting(ca_file: Path) -> ssl.SSLContext:
    """A context for connections to servers whose certificates come from the CAs of a PEM file. Shared, and
    made anew when the file changes. Raises OSError for an unusable file.
    """
    status = ca_file.stat()
    return _trusting(ca_file, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _trusting(ca_file: Path, inode: int, changed_ns: int) -> ssl.SSLContext:
    # Reading the public CAs takes 30 ms: too long for each attempt.
    return ssl.create_default_context(cafile=ca_file)
