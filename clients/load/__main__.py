"""`python -m clients.load`: puts a load on a service and prints what it answered.

python -m clients.load                                     the profile request-path, on a service of its own
python -m clients.load studio --seconds 30                 another profile; also a file of yours
python -m clients.load clients/load/ghz/check-membership.json --with h2load
python -m clients.load --target localhost:7443             a service that runs: it gets the account `load`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clients.load import calls, profile, runners
from clients.load.runners import Row, RunFailed
from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.cli.ways_on import way_on
from milepost.errors import MilepostError

ONE_CALL_CUSTOMERS = 1_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a profile; the exit status, 1 when calls failed and 2 when nothing could be run."""
    options = _parser().parse_args(arguments)
    try:
        measured, measure = _measurement(options)
        with _service(options.target) as target:
            rows = measure(target)
    except (RunFailed, profile.BadProfile, MilepostError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        if isinstance(error, MilepostError) and (hint := way_on(error)):
            print(f"load: {hint}", file=sys.stderr)
        return 2
    print(measured)
    Console().print(_table(rows))
    return 1 if any(row.errors for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clients.load", description="Put a load on a service.")
    parser.add_argument(
        "profile", nargs="?", default="request-path", help="name or file of a profile, or a file of ghz"
    )
    parser.add_argument("--target", help="a service that runs; by default one is started, on a loopback port")
    parser.add_argument("--account", help=f"account to fill and to call; by default `{calls.ACCOUNT}`")
    parser.add_argument("--users", type=int, help="callers at a time")
    parser.add_argument("--calls-per-second", type=float, help="of all callers; 0 = as fast as answers come")
    parser.add_argument("--seconds", type=float, help="length of the run")
    parser.add_argument("--calls", type=int, help="end after this many calls, or when the time is over")
    parser.add_argument("--with", dest="runner", choices=["h2load", "ghz"], help="what runs a file of ghz")
    return parser


def _measurement(options: argparse.Namespace) -> tuple[str, Callable[[str], list[Row]]]:
    """What is measured, in words, and what to do with a service at an address. The profile is read first: a
    slip costs no start. Raises BadProfile and RunFailed.
    """
    path = profile.find(options.profile)
    if path.suffix == ".json":
        return _of_one_call(options, path)
    _refuse_unused(options, ("runner",), f"{path} is a profile, which locust runs")
    used = profile.read(path).with_options(options.users, options.calls_per_second, options.seconds)
    account = options.account or calls.ACCOUNT

    def measure(target: str) -> list[Row]:
        _fill(target, account, used.customers)
        return runners.run_locust(used, target, account, options.calls)

    pace = f"{used.calls_per_second:g} calls/s" if used.calls_per_second else "as fast as answers come"
    return f"profile {path.stem}: {used.users} callers, {pace}, {used.seconds:g} s", measure


def _of_one_call(options: argparse.Namespace, path: Path) -> tuple[str, Callable[[str], list[Row]]]:
    unused = ("account", "users", "calls_per_second", "calls")
    _refuse_unused(options, unused, f"{path} says whom it calls, and how many callers there are")
    call = runners.read_call(path)
    run = runners.run_ghz if options.runner == "ghz" else runners.run_h2load

    def measure(target: str) -> list[Row]:
        _fill(target, calls.ACCOUNT, ONE_CALL_CUSTOMERS)
        return run(call, target, options.seconds)

    return f"{path.name}: one call, by {options.runner or 'h2load'}", measure


def _refuse_unused(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raises BadProfile for options that would have no effect."""
    for name in names:
        if getattr(options, name) is not None:
            option = "--with" if name == "runner" else f"--{name.replace('_', '-')}"
            raise profile.BadProfile(f"{option} has no effect here: {why}")


def _fill(target: str, account: str, customers: int) -> None:
    with Client(target, account=account) as client:
        calls.build(client, customers)


@contextmanager
def _service(target: str | None) -> Iterator[str]:
    """The address of a service: the one given, or one of its own for the length of the block."""
    if target is not None:
        yield target
        return
    with tempfile.TemporaryDirectory() as scratch:
        flags = ("--log-level", "warning")
        with ServiceProcess(Path(scratch) / "store", flags=flags) as service:
            yield service.target


def _table(rows: Sequence[Row]) -> Table:
    table = Table("call")
    for column in ("calls", "errors", "p50 ms", "p90 ms", "p99 ms", "calls/s"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: row.call):
        latencies = (f"{each:.2f}" for each in (row.p50_ms, row.p90_ms, row.p99_ms))
        table.add_row(row.call, f"{row.calls:,}", f"{row.errors:,}", *latencies, f"{row.per_second:,.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
