"""Generate the TypeScript messages and services of the contract, or check that the committed ones are fresh.

    python -m tools.generate_node            # rewrite clients/node/src/gen
    python -m tools.generate_node --check    # compare only; exit 1 and name every file that differs

Needs `npm ci` in clients/node, which has protoc-gen-es. What the contract imports is generated too, from
googleapis-common-protos.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tools.contract import ROOT, generate_without_rules

PACKAGE = ROOT / "clients" / "node"
TARGET = PACKAGE / "src" / "gen"
PLUGIN = PACKAGE / "node_modules" / ".bin" / "protoc-gen-es"
IMPORTED = (
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/api/resource.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)
"""What the contract imports, and errors with their details."""


def generate(destination: Path) -> None:
    """Writes all files below `destination`. Raises SystemExit when the compiler refuses."""
    if not PLUGIN.exists():
        raise SystemExit(f"{PLUGIN.relative_to(ROOT)} is missing: run `npm ci` in clients/node")
    generate_without_rules(
        f"--plugin=protoc-gen-es={PLUGIN}",
        "--es_opt=target=ts,import_extension=js",
        f"--es_out={destination}",
        more=IMPORTED,
    )


def texts(directory: Path) -> dict[str, str]:
    """The text of every generated file, by its path."""
    return {
        str(path.relative_to(directory)): path.read_text(encoding="utf-8") for path in directory.rglob("*.ts")
    }


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; the exit status, 1 when the check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the TypeScript code of the contract.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = texts(Path(scratch))
        committed = texts(TARGET)
        differing = sorted(
            name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
        )
        if options.check:
            for name in differing:
                print(f"differs from its .proto: clients/node/src/gen/{name}", file=sys.stderr)
            if differing:
                print("run `make node` and commit the result", file=sys.stderr)
            return 1 if differing else 0
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(scratch, TARGET)
    print(f"{len(fresh)} files in {TARGET}, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
