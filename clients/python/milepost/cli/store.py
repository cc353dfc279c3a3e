"""`milepost store`: what a store holds, whether it is sound, its clock, backups, and giving space back.

`stats` and `verify` ask the service, or with --data look into a directory; `restore`, `compact` and `adopt`
work on the directory of a store that is not served. All that touches a directory needs the package of the
service.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

from milepost.cli.connection import DEFAULT_ACCOUNT, DEFAULT_TARGET, ApiKey, Group, Target, open_client
from milepost.cli.serve import require_service
from milepost.cli.text import console, number, printable, show_table
from milepost.v1.admin_service_pb2 import (
    CLOCK_STATE_FOLLOWED,
    CLOCK_STATE_HELD,
    CLOCK_STATE_SETTLED,
    Clock,
    ConfirmClockRequest,
    CreateBackupRequest,
    GetClockRequest,
    GetStoreStatsRequest,
    GetStoreStatsResponse,
    VerifyProgress,
    VerifyResult,
    VerifyStoreRequest,
    VerifyStoreResponse,
)

BACKUP_TIMEOUT_SECONDS = 6 * 3_600.0
"""A backup takes half a minute for a million users; it is better waited for than given up."""

BROKEN_OFF = "the verification was broken off"

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_UNIT_STEP = 1_024

app = typer.Typer(help="Inspect, back up and maintain a store.", no_args_is_help=True, cls=Group)

Directory = Annotated[
    Path | None, typer.Option("--data", help="Read this store directory instead of asking the service.")
]
Data = Annotated[Path, typer.Option("--data", help="Directory of a store that no service has open.")]


@app.command()
def stats(data: Directory = None, target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Show users, events, bytes by kind, and the size of each file."""
    if data is None:
        with open_client(target, DEFAULT_ACCOUNT, api_key) as client:
            found = client.admin.GetStoreStats(GetStoreStatsRequest())
    else:
        with _offline():
            from service import offline

            found = offline.stats(data)
    _show_stats(found, console())


@app.command()
def verify(data: Directory = None, target: Target = DEFAULT_TARGET, api_key: ApiKey = "") -> None:
    """Read and check everything in the store. Exit status 1 when it finds a fault."""
    out = console()
    if data is None:
        with open_client(target, DEFAULT_ACCOUNT, api_key) as client:
            result = _follow(client.admin.VerifyStore(VerifyStoreRequest()), out)
    else:
        with _offline():
            from service import offline

            result = _follow(offline.verify(data), out)
    _show_result(result, out)
    if result.faults:
        raise typer.Exit(1)


@app.command()
def clock(
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Confirm the server's clock. Fails when this machine's clock differs."
        ),
    ] = False,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Show the service's clock and its state. After a jump, removals wait until the clock is trusted."""
    with open_client(target, DEFAULT_ACCOUNT, api_key) as client:
        if confirm:
            here = Timestamp()
            here.GetCurrentTime()
            found = client.admin.ConfirmClock(ConfirmClockRequest(time=here)).clock
        else:
            found = client.admin.GetClock(GetClockRequest()).clock
    _show_clock(found, console())


@app.command()
def backup(
    name: Annotated[str, typer.Argument(help="Name of the backup, a new directory on the server.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Write a consistent copy of the store to the server's backup directory, while it serves.

    The copy is verified; a damaged store is not backed up.
    """
    with open_client(target, DEFAULT_ACCOUNT, api_key) as client:
        made = client.admin.CreateBackup(CreateBackupRequest(backup_id=name), timeout=BACKUP_TIMEOUT_SECONDS)
    print(f"{made.directory}  (revision {made.revision})")


@app.command()
def restore(
    backup: Annotated[Path, typer.Argument(help="Directory of a backup.")],
    data: Data,
) -> None:
    """Restore a backup into an empty or new directory. Verifies the backup first."""
    with _offline():
        from service import offline

        restored = offline.restore(backup, data)
    print(f"restored {number(restored.users)} users and {number(restored.events)} events into {data}")
    print(f"the store is now {restored.store_id}; revisions handed out before are refused")


@app.command()
def compact(data: Data) -> None:
    """Rewrite the files of a store without free pages and deleted data."""
    with _offline():
        from service import offline

        before_bytes, after_bytes = offline.compact(data)
    print(f"{_size(before_bytes)} before, {_size(after_bytes)} now")


@app.command()
def upgrade(data: Data) -> None:
    """Upgrade a store of the previous format version, as starting the service does."""
    with _offline():
        from service import offline

        upgraded, version = offline.upgrade(data)
    files = f"rewrote {' and '.join(upgraded)} as" if upgraded else "nothing to do: the store has"
    print(f"{files} format version {version}")


@app.command()
def adopt(
    data: Data,
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Keep the store id: the original is gone and will not be used again."),
    ] = False,
) -> None:
    """Turn a copied directory into a store with a new id.

    Use it too after restoring a volume snapshot, and when the file `lock` was lost.
    """
    with _offline():
        from service import offline

        store_id = offline.adopt(data, moved=moved)
    if moved:
        print(f"the store in {data} is still {store_id}; do not use the original again")
    else:
        print(f"the store in {data} is now {store_id}; revisions handed out before are refused")


@contextmanager
def _offline() -> Iterator[None]:
    """Tells in words what cannot be done with a directory, with exit status 1."""
    require_service()
    from service.offline import OfflineError

    try:
        yield
    except OfflineError as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


# --- verify -------------------------------------------------------------------------------------------------


def _follow(responses: Iterable[VerifyStoreResponse], out: Console) -> VerifyResult:
    """Prints faults as they come, a bar in a terminal, and gives the result at the end."""
    columns = (
        TextColumn("verifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("keys,"),
        DownloadColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        keys = progress.add_task("keys", total=None)
        for response in responses:
            match response.WhichOneof("finding"):
                case "progress":
                    _advance(progress, keys, response.progress)
                case "fault":
                    fault = response.fault
                    where = printable(f"{fault.family} {fault.key}".strip())
                    progress.console.print(f"fault: {where}: {printable(fault.description)}", markup=False)
                case "result":
                    return response.result
    print(f"milepost: {BROKEN_OFF}", file=sys.stderr)
    raise typer.Exit(1)


def _advance(progress: Progress, task: object, at: VerifyProgress) -> None:
    progress.update(task, completed=at.keys, total=at.keys_total)  # type: ignore[arg-type]


def _show_result(result: VerifyResult, out: Console) -> None:
    rows = [
        [each.family, each.kind, number(each.keys), number(each.bytes), number(each.faults)]
        for each in result.families
    ]
    total = [sum(each.keys for each in result.families), sum(each.bytes for each in result.families)]
    rows.append(["total", "", *map(number, total), number(result.faults)])
    show_table(out, ["family", "kind", "keys", "bytes", "faults"], rows, right=(2, 3, 4))
    verdict = "sound" if not result.faults else f"{number(result.faults)} faults"
    print(f"\n{verdict}, as of revision {result.revision}", file=out.file)


# --- clock --------------------------------------------------------------------------------------------------

_CLOCK_STATES = {
    CLOCK_STATE_SETTLED: "settled",
    CLOCK_STATE_FOLLOWED: "answers go by it, removals wait",
    CLOCK_STATE_HELD: "it jumped; answers and removals wait",
}


def _show_clock(found: Clock, out: Console) -> None:
    facts = [
        ["clock", found.wall_time.ToJsonString()],
        ["believed", _CLOCK_STATES.get(found.state, "")],
        ["answers go by", found.time.ToJsonString()],
        ["removals go by", found.settled_time.ToJsonString()],
    ]
    if found.wait.ToMicroseconds():
        facts.append(["settled in", f"{number(found.wait.ToSeconds())} s, if it stays steady"])
    show_table(out, ["", ""], facts)


# --- stats --------------------------------------------------------------------------------------------------


def _show_stats(found: GetStoreStatsResponse, out: Console) -> None:
    facts = [
        ["store", found.store_id],
        ["revision", found.revision],
        ["checkpointed into the index", found.checkpointed_revision],
        ["format version", str(found.format_version)],
        ["users", number(found.users)],
        ["events", number(found.events)],
        ["rows of erased users", "still being rewritten" if found.purging else "none"],
    ]
    show_table(out, ["", ""], facts)
    print(file=out.file)
    total = sum(kind.bytes for kind in found.kinds) or 1
    kinds = [
        [each.kind, number(each.keys), number(each.bytes), f"{each.bytes / total:.1%}"]
        for each in sorted(found.kinds, key=lambda each: -each.bytes)
    ]
    show_table(out, ["kind", "keys", "bytes", "share"], kinds, right=(1, 2, 3))
    print(file=out.file)
    files = [
        [
            file.name,
            *map(_size, (file.disk_bytes, file.used_bytes, file.free_bytes)),
            _size(file.limit_bytes) if file.limit_bytes else "",
        ]
        for file in found.files
    ]
    show_table(out, ["file", "on disk", "used", "free inside", "limit"], files, right=(1, 2, 3, 4))


def _size(count: int) -> str:
    """1.5 MiB."""
    size, unit = float(count), 0
    while size >= _UNIT_STEP and unit < len(_UNITS) - 1:
        size, unit = size / _UNIT_STEP, unit + 1
    return f"{count} bytes" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
