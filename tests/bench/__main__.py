"""`python -m tests.bench`: measures tables of figures on this machine.

python -m tests.bench                                the service, on the sample (a few minutes)
python -m tests.bench checks                         membership checks beside an empty handler and Redis
python -m tests.bench readers                        the same checks with one, two and no readers
python -m tests.bench criteria --keep DIRECTORY      each form of criterion beside DuckDB and ClickHouse
python -m tests.bench cluster                        plans over ClickHouse, beside SQL by hand and ours
python -m tests.bench sizes --keep DIRECTORY         estimates of a deep milestone over ten million users
python -m tests.bench import --keep DIRECTORY        a Parquet file, beside DuckDB and ClickHouse loading it
python -m tests.bench import-users                   a Parquet file of users, beside UpsertUsers
python -m tests.bench ingest                         unary and streamed ingest, beside reading the same bytes
python -m tests.bench deliveries                     changes delivered per second, for each kind of output
python -m tests.bench live                           acknowledgement to watch, events nobody reads, ticks
python -m tests.bench checkpoints                    how long writes and reads wait beside a checkpoint
python -m tests.bench watchers                       what thousands of watchers cost, and checks beside them
python -m tests.bench local                          local checks of the Python client, without a call
python -m tests.bench growth --keep DIRECTORY        how everything grows, from 100 k to 10 M users
python -m tests.bench intervals --keep DIRECTORY     how often the true size lies inside the interval
python -m tests.bench steady --keep DIRECTORY        whether the same question keeps its answer
python -m tests.bench bystander --keep DIRECTORY     checks beside counts, estimates, ingest, export, verify
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from service.config import Config


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the chosen tables."""
    options = _parser().parse_args(arguments)
    # One process, unless a table is about more.
    os.environ.setdefault("MILEPOST_READERS", "0")
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    run = {
        "checks": _checks,
        "readers": _readers,
        "criteria": _criteria,
        "cluster": _cluster,
        "sizes": _sizes,
        "import": _import,
        "import-users": _import_users,
        "ingest": _ingest,
        "growth": _growth,
        "intervals": _intervals,
        "steady": _steady,
        "bystander": _bystander,
        "local": _local,
        "deliveries": _deliveries,
        "live": _live,
        "watchers": _watchers,
        "checkpoints": _checkpoints,
    }.get(options.table)
    if run is None:
        _service(console)
    else:
        run(options, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure this build.")
    tables = parser.add_subparsers(dest="table", metavar="TABLE")
    tables.add_parser("service", help="the service on the sample (default)")
    _add_checks(tables)
    criteria = tables.add_parser("criteria", help="criteria beside DuckDB and embedded ClickHouse")
    criteria.add_argument("--users", type=int, default=1_000_000)
    criteria.add_argument("--events", type=int, default=20_000_000)
    criteria.add_argument("--keep", type=Path, help="directory to keep the generated world in")
    criteria.add_argument("--only", default="", help="only the forms whose name contains this")
    _add_cluster(tables)
    sizes = tables.add_parser("sizes", help="estimates of a milestone of ten criteria, five levels deep")
    sizes.add_argument("--users", type=int, default=10_000_000)
    sizes.add_argument("--events", type=int, default=2_000_000)
    sizes.add_argument("--groups", type=int, default=16, help="partition groups, as in the service")
    sizes.add_argument("--keep", type=Path, help="directory to keep the filled store in")
    imports = tables.add_parser(
        "import", help="a Parquet file of events, beside DuckDB and embedded ClickHouse"
    )
    imports.add_argument("--users", type=int, default=1_000_000)
    imports.add_argument("--events", type=int, default=20_000_000)
    imports.add_argument("--keep", type=Path, help="directory to keep the generated file in")
    of_users = tables.add_parser("import-users", help="a Parquet file of users, beside UpsertUsers")
    of_users.add_argument("--users", type=int, default=1_000_000)
    of_users.add_argument("--emails", action="store_true", help="with a unique e-mail identity per user")
    ingest = tables.add_parser("ingest", help="unary and streamed ingest, beside reading the same bytes")
    ingest.add_argument("--events", type=int, default=500_000, help="events per line of the table")
    deliveries = tables.add_parser("deliveries", help="changes delivered per second, by kind of output")
    deliveries.add_argument("--changes", type=int, default=200_000, help="of each line of the table")
    deliveries.add_argument("--only", default="", help="only the outputs whose name contains this")
    growth = tables.add_parser("growth", help="ingest, counts, restarts, disk and memory by number of users")
    growth.add_argument("--users", type=_scales, default="100000,1000000,10000000", help="ascending")
    growth.add_argument("--keep", type=Path, help="directory to keep the stores in")
    growth.add_argument("--svg", type=Path, default="docs/growth.svg", help="file the plot is written to")
    intervals = tables.add_parser("intervals", help="coverage of the 95 %% intervals, random criteria")
    intervals.add_argument("--users", type=int, default=1_000_000)
    intervals.add_argument("--events", type=int, default=500_000)
    intervals.add_argument(
        "--copies", type=int, default=0, help="copies of the sample per world; 405 = 1 M users"
    )
    intervals.add_argument("--criteria", type=int, default=2_000)
    intervals.add_argument("--keep", type=Path, help="directory to keep the filled store in")
    steady = tables.add_parser("steady", help="whether the same question keeps its answer")
    steady.add_argument("--users", type=int, default=300_000)
    steady.add_argument("--events", type=int, default=1_200_000)
    steady.add_argument("--criteria", type=int, default=2_000)
    steady.add_argument("--seed", type=int, default=20_261_128)
    steady.add_argument("--keep", type=Path, help="directory to keep the filled store in")
    _add_live(tables.add_parser("live", help="live audiences: latency, events nobody reads, ticks"))
    _add_watchers(tables)
    beside = tables.add_parser("checkpoints", help="how long writes and reads wait beside a checkpoint")
    beside.add_argument("--names", type=int, default=1_250, help="names of events")
    beside.add_argument("--users", type=int, default=100_000, help="users with six attributes")
    return parser


def _add_live(live: argparse.ArgumentParser) -> None:
    live.add_argument("--journeys", type=int, nargs="+", default=(1, 20, 100, 300))
    live.add_argument("--rates", type=int, nargs="+", default=(1_000, 5_000), help="events a second")
    live.add_argument("--seconds", type=float, default=10.0, help="of events for each line of the table")
    live.add_argument("--events", type=int, default=100_000, help="to take the cost of one of; 0 for none")
    live.add_argument("--round-journeys", type=int, default=100, help="0 to leave that part out")
    live.add_argument("--round-users", type=int, default=400, help="that enter or leave")
    live.add_argument("--erased", type=int, default=100_000, help="0 to leave that part out")
    live.add_argument("--tick-users", type=int, default=500_000, help="0 to leave that part out")


def _add_cluster(tables: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cluster = tables.add_parser("cluster", help="plans over ClickHouse, beside SQL written by hand")
    cluster.add_argument("--users", type=int, default=1_000_000)
    cluster.add_argument("--events", type=int, default=20_000_000)
    cluster.add_argument("--only-failovers", action="store_true", help="only the time after a killed server")
    cluster.add_argument("--only-mapped", action="store_true", help="only events in a table of others")
    cluster.add_argument("--only-promoted", action="store_true", help="only columns of event attributes")


def _add_watchers(tables: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    watchers = tables.add_parser("watchers", help="thousands of watchers: memory, CPU, checks beside them")
    watchers.add_argument("--watchers", type=int, nargs="+", default=(0, 100, 1_000, 5_000))
    watchers.add_argument("--audiences", type=int, default=50, help="that they follow, in turn")
    watchers.add_argument("--seconds", type=float, default=15.0, help="that quiet watchers are measured")


def _add_checks(tables: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The tables on membership checks."""
    checks = tables.add_parser("checks", help="membership checks beside an empty handler and Redis")
    checks.add_argument("--users", type=int, default=100_000)
    checks.add_argument("--seconds", type=float, default=1.0, help="of each of the rounds")
    checks.add_argument("--rounds", type=int, default=5, help="turns of which the median counts")
    readers = tables.add_parser("readers", help="membership checks with one, two and no readers")
    readers.add_argument("--users", type=int, default=100_000)
    readers.add_argument("--seconds", type=float, default=1.0, help="of each of the rounds")
    readers.add_argument("--rounds", type=int, default=5, help="turns of which the median counts")
    readers.add_argument(
        "--with-h2load", action="store_true", help="call from h2load (Debian: nghttp2-client)"
    )
    local = tables.add_parser("local", help="local checks of the Python client, without a call")
    local.add_argument("--members", type=int, default=1_000_000)
    bystander = tables.add_parser("bystander", help="checks beside counts, estimates, ingest, export, verify")
    bystander.add_argument("--users", type=int, default=1_000_000)
    bystander.add_argument("--events", type=int, default=2_000_000)
    bystander.add_argument(
        "--seconds", type=float, default=4.0, help="measured beside each load, in each round"
    )
    bystander.add_argument("--rounds", type=int, default=3, help="turns of which the median counts")
    bystander.add_argument(
        "--readers", type=int, default=Config().reader_count, help="processes that answer checks"
    )
    bystander.add_argument("--keep", type=Path, help="directory to keep the filled store in")


def _scales(text: str) -> tuple[int, ...]:
    """`1000,20000` → (1000, 20000)."""
    users = tuple(int(each) for each in text.split(","))
    if len(users) < 2 or list(users) != sorted({*users}) or users[0] < 1:
        raise argparse.ArgumentTypeError("needs at least two numbers, ascending")
    return users


# The tables need different extras, so each is imported on use.


def _service(console: Console) -> None:
    from tests.bench import service_table

    service_table.run(console)


def _deliveries(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import deliveries

    deliveries.run(deliveries.Options(options.changes, options.only), console)


def _checks(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import checks

    checks.run(checks.Options(options.users, seconds=options.seconds, rounds=options.rounds), console)


def _readers(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import readers

    chosen = readers.Options(
        options.users,
        seconds=options.seconds,
        rounds=options.rounds,
        with_h2load=options.with_h2load,
    )
    readers.run(chosen, console)


def _criteria(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import criteria, synthetic

    scale = synthetic.Scale(users=options.users, events=options.events)
    criteria.run(criteria.Options(scale=scale, keep=options.keep, only=options.only), console)


def _cluster(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import cluster, cluster_costs, cluster_mapped, cluster_promoted, synthetic

    only = options.only_mapped or options.only_promoted or options.only_failovers
    if not only:
        scale = synthetic.Scale(users=options.users, events=options.events)
        cluster.run(scale, console, cluster_costs.run)
    if options.only_mapped or not only:
        cluster_mapped.run(console)
    if options.only_promoted or not only:
        cluster_promoted.run(options.events, console)
    if only and not options.only_failovers:
        return
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory:
        cluster_costs.failovers(Path(directory), console)


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


def _bystander(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import bystander, marketing_world

    chosen = bystander.Options(
        scale=marketing_world.Scale(users=options.users, events=options.events),
        seconds=options.seconds,
        rounds=options.rounds,
        readers=options.readers,
        keep=options.keep,
    )
    bystander.run(chosen, console)


def _watchers(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import watchers

    chosen = watchers.Options(watchers=options.watchers, audiences=options.audiences, seconds=options.seconds)
    watchers.run(chosen, console)


def _checkpoints(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import checkpoints, figures

    chosen = checkpoints.Options(names=options.names, users=options.users)
    console.print(figures.table("beside a checkpoint", checkpoints.run(chosen)))


def _live(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import live

    chosen = live.Options(
        journeys=tuple(options.journeys),
        rates=tuple(options.rates),
        seconds=options.seconds,
        events=options.events,
        round_journeys=options.round_journeys,
        round_users=options.round_users,
        erased=options.erased,
        tick_users=options.tick_users,
    )
    live.run(chosen, console)


def _local(options: argparse.Namespace, console: Console) -> None:
    from tests.bench import local_checks

    local_checks.print_table(options.members, console)


if __name__ == "__main__":
    main()
