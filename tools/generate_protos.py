"""Generate the Python stubs of the contract, or check that the committed ones are fresh.

    python -m tools.generate_protos            # rewrite clients/python/milepost/v1
    python -m tools.generate_protos --check    # compare only; exit 1 and name every file that differs

Each `.proto` gives `*_pb2.py`, and `*_pb2_grpc.py` if it defines a service, each with a typed `.pyi`.
The import path equals the proto package: `from milepost.v1 import journey_service_pb2`. The rules of
protovalidate are left out: importing the client needs no package for them.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import tempfile
from pathlib import Path

from tools.contract import ROOT, generate_without_rules

PROTO_PACKAGE = "milepost/v1"
STUB_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
INIT_TEXT = '"""Generated messages and service stubs of the package `milepost.v1`."""\n'


def generate(protos: Path, destination: Path) -> None:
    """Write the stubs of every `.proto` under `protos` below `destination`, an import root.

    Raises SystemExit when there is nothing to generate or the compiler refuses a file.
    """
    sources = sorted(str(path.relative_to(protos)) for path in (protos / PROTO_PACKAGE).glob("*.proto"))
    if not sources:
        raise SystemExit(f"no .proto files in {protos / PROTO_PACKAGE}")
    scripts = Path(sysconfig.get_path("scripts"))
    generate_without_rules(
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={destination}",
        f"--grpc_python_out={destination}",
        f"--mypy_out=quiet:{destination}",
        f"--mypy_grpc_out=quiet:{destination}",
        protos=protos,
    )
    package = destination / PROTO_PACKAGE
    for source in sources:
        _drop_empty_service_stubs(package, Path(source).stem)
    (package / "__init__.py").write_text(INIT_TEXT, encoding="utf-8")


def _drop_empty_service_stubs(package: Path, stem: str) -> None:
    # The gRPC generator also writes files for sources without services.
    service_stub = package / f"{stem}_pb2_grpc.py"
    if "class " not in service_stub.read_text(encoding="utf-8"):
        service_stub.unlink()
        (package / f"{stem}_pb2_grpc.pyi").unlink(missing_ok=True)


def stub_texts(package: Path) -> dict[str, str]:
    """The text of every generated file in `package`, by file name."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in package.glob("*.py*")
        if path.name.endswith(STUB_SUFFIXES) or path.name == "__init__.py"
    }


def differences(committed: dict[str, str], fresh: dict[str, str]) -> list[str]:
    """One line for each file that is missing, stale, or different from the generator's output."""
    found = []
    for name in sorted(committed.keys() | fresh.keys()):
        if name not in committed:
            found.append(f"missing: {name}")
        elif name not in fresh:
            found.append(f"stale, its .proto no longer exists: {name}")
        elif committed[name] != fresh[name]:
            found.append(f"differs from its .proto: {name}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; the exit status, 1 when the check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the Python stubs of the contract.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--protos", type=Path, default=ROOT / "protos", help="folder of the .proto files")
    parser.add_argument("--out", type=Path, default=ROOT / "clients" / "python", help="their import root")
    options = parser.parse_args(arguments)
    package = options.out / PROTO_PACKAGE
    with tempfile.TemporaryDirectory() as scratch:
        generate(options.protos, Path(scratch))
        fresh = stub_texts(Path(scratch) / PROTO_PACKAGE)
    found = differences(stub_texts(package) if package.is_dir() else {}, fresh)
    if options.check:
        for line in found:
            print(line, file=sys.stderr)
        if found:
            print("the stubs are outdated: run `make protos` and commit the result", file=sys.stderr)
        return 1 if found else 0
    package.mkdir(parents=True, exist_ok=True)
    for name in stub_texts(package).keys() - fresh.keys():
        (package / name).unlink()
    for name, text in fresh.items():
        (package / name).write_text(text, encoding="utf-8")
    print(f"{len(fresh)} files in {package}, {len(found)} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
