"""Instructions of fixed questions, of a check, an estimate and a batch, beside those of the committed file.

Times say little on a busy machine; the number of instructions hardly changes between runs. Callgrind counts
them on the processor that Valgrind imitates, over a store that is the same each time. They depend on the
interpreter, the libraries and the C library, so the file names these, and counts made with others are printed
and fail nothing.

python -m tests.bench.instructions            compares; fails when something takes 10 % more
python -m tests.bench.instructions --write    writes the file; the commit says why
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.instructions_world import fill

FILE = Path(__file__).with_name("instructions.json")
MORE_MAX = 1.10
"""Instructions relative to the file's, above which the comparison fails."""
FEWER_SHOWN = 0.90
"""Below which it asks for a new file."""

LIBRARIES = ("numpy", "pyroaring", "lmdb", "msgspec", "google-re2", "xxhash", "zstandard")
_TRIGGER, _TOTALS = "desc: Trigger: Client Request: ", "totals: "
WITHOUT_VALGRIND = "Valgrind is not installed (Debian: valgrind): no instructions are counted"


class Counts(msgspec.Struct, frozen=True):
    """What was counted, and with what."""

    made_with: dict[str, str]
    instructions: dict[str, int]


def made_with() -> dict[str, str]:
    """What the counts depend on, the program aside."""
    libc, libc_version = platform.libc_ver()
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        libc or "libc": libc_version,
        "valgrind": subprocess.run(
            ["valgrind", "--version"], check=True, capture_output=True, text=True
        ).stdout.strip(),
        **{name: version(name) for name in LIBRARIES},
    }


def measure() -> Counts:
    """Counts everything once."""
    with tempfile.TemporaryDirectory(prefix="milepost-instructions-") as temporary:
        directory = Path(temporary)
        fill(directory / "store")
        command = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={directory / 'counted'}",
            sys.executable,
            "-m",
            "tests.bench.counted",
            str(directory / "store"),
        ]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        files = sorted(directory.glob("counted.*"), key=lambda file: int(file.suffix[1:]))
        return Counts(made_with(), dict(map(_counted, files)))


def _counted(file: Path) -> tuple[str, int]:
    """What a file of Callgrind is about, and its number of instructions."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    (name,) = (line.removeprefix(_TRIGGER) for line in lines if line.startswith(_TRIGGER))
    (total,) = (line.removeprefix(_TOTALS) for line in lines if line.startswith(_TOTALS))
    return name, int(total)


def read() -> Counts:
    """The committed counts."""
    return msgspec.json.decode(FILE.read_bytes(), type=Counts)


def write(counts: Counts) -> None:
    """Replaces the committed counts."""
    FILE.write_text(json.dumps(msgspec.to_builtins(counts), indent=2) + "\n", encoding="utf-8")


def differences(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """What two sets of counts were made with, where it differs."""
    names = sorted(now.keys() | then.keys())
    return [
        f"{name} {now.get(name)}, not {then.get(name)}" for name in names if now.get(name) != then.get(name)
    ]


def dearer(now: Mapping[str, int], then: Mapping[str, int]) -> list[str]:
    """One line for each thing that takes more than `MORE_MAX` of its instructions, or is not in the file."""
    lines = [
        f"{name}: {count:,} instructions, {count / then[name] - 1:+.0%}"
        for name, count in now.items()
        if name in then and count > MORE_MAX * then[name]
    ]
    return lines + [f"{name}: not in {FILE.name}" for name in now if name not in then]


def compare(now: Counts, then: Counts, console: Console) -> bool:
    """Prints both. False when something takes more instructions than it may."""
    console.print(_table(now.instructions, then.instructions))
    others = differences(now.made_with, then.made_with)
    if others:
        console.print(f"counted with {'; '.join(others)}: nothing fails", highlight=False)
        return True
    fewer = [
        name
        for name, count in now.instructions.items()
        if count < FEWER_SHOWN * then.instructions.get(name, 0)
    ]
    if fewer:
        console.print(f"fewer than in {FILE.name}: renew it with make instructions ARGS=--write")
    failed = dearer(now.instructions, then.instructions)
    for line in failed:
        console.print(f"[red]{line}[/red]", highlight=False)
    if failed:
        console.print(
            f"make it cheaper, or renew {FILE.name} in the same commit (make instructions ARGS=--write)"
            " and say why"
        )
    return not failed


def _table(now: Mapping[str, int], then: Mapping[str, int]) -> Table:
    table = Table(box=box.SIMPLE, title="Instructions, in thousands")
    table.add_column("")
    for heading in ("committed", "now", "change"):
        table.add_column(heading, justify="right")
    for name, count in now.items():
        before = then.get(name)
        change = "" if before is None else f"{count / before - 1:+.1%}"
        table.add_row(name, "" if before is None else f"{before // 1_000:,}", f"{count // 1_000:,}", change)
    return table


def main() -> int:
    """0 when nothing takes too many instructions."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} instead of comparing")
    options = parser.parse_args()
    console = Console()
    if shutil.which("valgrind") is None:
        console.print(WITHOUT_VALGRIND)
        return 0
    counts = measure()
    if options.write:
        write(counts)
        console.print(f"wrote {FILE}")
        return 0
    return 0 if compare(counts, read(), console) else 1


if __name__ == "__main__":
    sys.exit(main())
