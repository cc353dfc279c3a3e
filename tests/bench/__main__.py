"""`python -m tests.bench`: prints tables of figures, measured now on this machine.

python -m tests.bench                                the service, on the sample (a few minutes)
python -m tests.bench criteria --keep DIRECTORY      each form of criterion beside DuckDB and ClickHouse
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the chosen tables."""
    options = _parser().parse_args(arguments)
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if options.table == "criteria":
        _criteria(options, console)
    else:
        _service(console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure this build.")
    tables = parser.add_subparsers(dest="table", metavar="TABLE")
    tables.add_parser("service", help="the service on the sample (default)")
    criteria = tables.add_parser("criteria", help="criteria beside DuckDB and embedded ClickHouse")
    criteria.add_argument("--users", type=int, default=1_000_000)
    criteria.add_argument("--events", type=int, default=20_000_000)
    criteria.add_argument("--keep", type=Path, help="directory the drawn world stays in")
    criteria.add_argument("--only", default="", help="only the forms whose name contains this")
    return parser


# The tables need different extras, so each is imported when it is asked for.


def _service(console: Console) -> None:
    from tests.bench import service_table

    service_table.run(console)


def _criteria(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import criteria, synthetic

    scale = synthetic.Scale(users=options.users, events=options.events)
    criteria.run(criteria.Options(scale=scale, keep=options.keep, only=options.only), console)


if __name__ == "__main__":
    main()
