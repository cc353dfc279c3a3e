"""Lint the contract, or check that it breaks no caller of another version of it.

    python -m tools.check_contract                              # buf lint
    python -m tools.check_contract --breaking                   # buf breaking, against the last release
    python -m tools.check_contract --breaking --against main    # against the contract at a git ref

buf cannot fetch the files that the contract imports. protoc compiles them (`tools/contract.py`), and buf
reads the result.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

from tools.contract import ROOT, compiled_to

IMPORTED = ("google", "buf")
CONFIG = json.dumps(
    {
        "version": "v2",
        "lint": {"use": ["STANDARD"], "ignore": IMPORTED},
        "breaking": {"use": ["FILE"], "ignore": IMPORTED},
    }
)
"""The rules, without those for what is not ours."""


def at_ref(ref: str, directory: Path) -> Path:
    """The `.proto` files at a git ref."""
    archive = subprocess.run(["git", "archive", ref, "protos"], check=True, capture_output=True, cwd=ROOT)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory / "protos"


def last_release() -> str:
    """The tag of the last release; "" when there is none."""
    command = ["git", "describe", "--tags", "--match", "v*", "--abbrev=0"]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Check; the exit status of buf."""
    parser = argparse.ArgumentParser(description="Check the contract with buf.")
    parser.add_argument("--breaking", action="store_true", help="check that no caller breaks, not the style")
    parser.add_argument("--against", help="a git ref whose callers must not break; default: the last release")
    options = parser.parse_args(arguments)
    against = options.against or last_release()
    if options.breaking and not against:
        print("SKIPPED: there is no release yet whose callers could break (no tag v*)", file=sys.stderr)
        return 0
    buf = str(Path(sysconfig.get_path("scripts")) / "buf")
    with tempfile.TemporaryDirectory() as scratch:
        image = compiled_to(Path(scratch) / "now.binpb")
        command = [buf, "lint", str(image), "--config", CONFIG]
        if options.breaking:
            before = compiled_to(Path(scratch) / "before.binpb", at_ref(against, Path(scratch)))
            command = [buf, "breaking", str(image), "--against", str(before), "--config", CONFIG]
            command += ["--against-config", CONFIG]
        return subprocess.run(command, check=False, cwd=scratch).returncode


if __name__ == "__main__":
    raise SystemExit(main())
