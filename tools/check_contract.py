"""Lint the contract, or check that it breaks no caller of another version of it.

    python tools/check_contract.py                              # buf lint
    python tools/check_contract.py --breaking                   # buf breaking, against the last release
    python tools/check_contract.py --breaking --against main    # against the contract at a git ref

buf cannot fetch the files that the contract imports. protoc compiles them, from googleapis-common-protos and
grpcio-tools, and buf reads the result.
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
from importlib import resources
from pathlib import Path

import google.rpc

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ("google",)
CONFIG = json.dumps(
    {
        "version": "v2",
        "lint": {"use": ["STANDARD"], "ignore": IMPORTED},
        "breaking": {"use": ["FILE"], "ignore": IMPORTED},
    }
)
"""The rules, without those for what is not ours."""


def include_paths() -> list[str]:
    """Where the files lie that the contract imports, as flags of protoc."""
    common = Path(next(iter(google.rpc.__path__))).parent.parent
    return [f"--proto_path={common}", f"--proto_path={resources.files('grpc_tools') / '_proto'}"]


def compiled(protos: Path, target: Path) -> Path:
    """The contract as an image that buf reads. Raises SystemExit when the compiler refuses it."""
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={protos}",
        *include_paths(),
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={target}",
        *sources,
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit("protoc failed")
    return target


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
        image = compiled(ROOT / "protos", Path(scratch) / "now.binpb")
        command = [buf, "lint", str(image), "--config", CONFIG]
        if options.breaking:
            before = compiled(at_ref(against, Path(scratch)), Path(scratch) / "before.binpb")
            command = [buf, "breaking", str(image), "--against", str(before), "--config", CONFIG]
            command += ["--against-config", CONFIG]
        return subprocess.run(command, check=False, cwd=scratch).returncode


if __name__ == "__main__":
    raise SystemExit(main())
