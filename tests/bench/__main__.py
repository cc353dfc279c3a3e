"""`python -m tests.bench`: prints tables of figures, measured now on this machine.

python -m tests.bench                                the service, on the sample (a few minutes)
python -m tests.bench criteria --keep DIRECTORY      each form of criterion beside DuckDB and ClickHouse
python -m tests.bench sizes --keep DIRECTORY         estimates of a deep milestone over ten million users
python -m tests.bench import --keep DIRECTORY        a Parquet file, beside DuckDB and ClickHouse loading it
python -m tests.bench import-users                   a Parquet file of users, beside UpsertUsers
python -m tests.bench ingest                         unary and streamed ingest, beside reading the same bytes
python -m tests.bench growth --keep DIRECTORY        how everything grows, from 100 k to 10 M users
python -m tests.bench intervals --keep DIRECTORY     how often the true size lies inside the interval
python -m tests.bench steady --keep DIRECTORY        whether the same question keeps its answer
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
    elif options.table == "sizes":
        _sizes(options, console)
    elif options.table == "import":
        _import(options, console)
    elif options.table == "import-users":
        _import_users(options, console)
    elif options.table == "ingest":
        _ingest(options, console)
    elif options.table == "growth":
        _growth(options, console)
    elif options.table == "intervals":
        _intervals(options, console)
    elif options.table == "steady":
        _steady(options, console)
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
    sizes = tables.add_parser("sizes", help="estimates of a milestone of ten criteria, five levels deep")
    sizes.add_argument("--users", type=int, default=10_000_000)
    sizes.add_argument("--events", type=int, default=2_000_000)
    sizes.add_argument("--groups", type=int, default=16, help="groups of partitions, as the service has it")
    sizes.add_argument("--keep", type=Path, help="directory the filled store stays in")
    imports = tables.add_parser(
        "import", help="a Parquet file of events, beside DuckDB and embedded ClickHouse"
    )
    imports.add_argument("--users", type=int, default=1_000_000)
    imports.add_argument("--events", type=int, default=20_000_000)
    imports.add_argument("--keep", type=Path, help="directory the drawn file stays in")
    of_users = tables.add_parser("import-users", help="a Parquet file of users, beside UpsertUsers")
    of_users.add_argument("--users", type=int, default=1_000_000)
    of_users.add_argument("--emails", action="store_true", help="with an identity of its own for each")
    ingest = tables.add_parser("ingest", help="unary and streamed ingest, beside reading the same bytes")
    ingest.add_argument("--events", type=int, default=500_000, help="of each line of the table")
    growth = tables.add_parser("growth", help="ingest, counts, restarts, disk and memory by number of users")
    growth.add_argument("--users", type=_scales, default="100000,1000000,10000000", help="ascending")
    growth.add_argument("--keep", type=Path, help="directory the stores stay in")
    growth.add_argument("--svg", type=Path, default="docs/growth.svg", help="file the plot is written to")
    intervals = tables.add_parser("intervals", help="coverage of the 95 % intervals, random criteria")
    intervals.add_argument("--users", type=int, default=1_000_000)
    intervals.add_argument("--events", type=int, default=500_000)
    intervals.add_argument("--copies", type=int, default=0, help="of the sample, for a world; 405: 1 M users")
    intervals.add_argument("--criteria", type=int, default=2_000)
    intervals.add_argument("--keep", type=Path, help="directory the filled store stays in")
    steady = tables.add_parser("steady", help="whether the same question keeps its answer")
    steady.add_argument("--users", type=int, default=300_000)
    steady.add_argument("--events", type=int, default=1_200_000)
    steady.add_argument("--criteria", type=int, default=2_000)
    steady.add_argument("--seed", type=int, default=20_261_128)
    steady.add_argument("--keep", type=Path, help="directory the filled store stays in")
    return parser


def _scales(text: str) -> tuple[int, ...]:
    """`1000,20000` → (1000, 20000)."""
    users = tuple(int(each) for each in text.split(","))
    if len(users) < 2 or list(users) != sorted({*users}) or users[0] < 1:
        raise argparse.ArgumentTypeError("needs at least two numbers, ascending")
    return users


# The tables need different extras, so each is imported when it is asked for.


def _service(console: Console) -> None:
    from tests.bench import service_table

    service_table.run(console)


def _criteria(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import criteria, synthetic

    scale = synthetic.Scale(users=options.users, events=options.events)
    criteria.run(criteria.Options(scale=scale, keep=options.keep, only=options.only), console)


def _sizes(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import marketing_world, sizes

    scale = marketing_world.Scale(users=options.users, events=options.events, groups=options.groups)
    sizes.run(sizes.Options(scale=scale, keep=options.keep), console)


def _import(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import import_rate

    import_rate.run(import_rate.Options(options.events, options.users, options.keep), console)


def _import_users(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import import_users_rate

    import_users_rate.run(import_users_rate.Options(options.users, options.emails), console)


def _ingest(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import ingest_rate

    ingest_rate.run(ingest_rate.Options(options.events), console)


def _growth(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import growth

    growth.run(growth.Options(options.users, options.keep, options.svg), console)


def _intervals(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import intervals, marketing_world

    scale = marketing_world.Scale(users=options.users, events=options.events)
    intervals.run(
        intervals.Options(scale=scale, criteria=options.criteria, keep=options.keep, copies=options.copies),
        console,
    )


def _steady(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import marketing_world, steady

    scale = marketing_world.Scale(users=options.users, events=options.events)
    asked = steady.Options(scale=scale, criteria=options.criteria, seed=options.seed, keep=options.keep)
    steady.run(asked, console)


if __name__ == "__main__":
    main()
