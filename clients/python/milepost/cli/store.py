"""`milepost store`: figures, verification, clock, backups and maintenance of a store.

`stats` and `verify` ask the service, or read a directory with --data; `restore`, `compact` and `adopt` work
on the directory of a store that is not served; `export` moves a backup into a cluster. Everything on
directories needs the service package.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_json, show_many, show_one
from milepost.cli.calling import Group, ServiceOptions
from milepost.cli.option_groups import grouped
from milepost.cli.serve import require_service
from milepost.cli.text import console, moment, number, printable, show_facts, show_table, size
from milepost.v1.admin_service_pb2 import (
    CLOCK_STATE_FOLLOWED,
    CLOCK_STATE_HELD,
    CLOCK_STATE_SETTLED,
    Backup,
    Clock,
    GetStoreStatsResponse,
    VerifyProgress,
    VerifyResult,
    VerifyStoreResponse,
)

BROKEN_OFF = "the verification was interrupted"

OUTPUTS_SHOWN_MAX = 20
"""Outputs that a restore lists because it has no key for their secrets."""

DIFFERENCES_SHOWN_MAX = 50
"""Partitions that an export lists because they differ."""

SETTLE_S = 5.0
"""Default time for inserts into tables that are read in place."""

app = typer.Typer(help="Inspect, back up and maintain a store.", no_args_is_help=True, cls=Group)

Directory = Annotated[
    Path | None, typer.Option("--data", help="Read this store directory instead of asking the service.")
]
Data = Annotated[Path, typer.Option("--data", help="Directory of a store that no service has open.")]


@app.command()
@grouped
def stats(data: Directory = None, as_json: AsJson = False, *, service: ServiceOptions) -> None:
    """Show users, events, bytes by kind, and the size of each file."""
    if data is None:
        with service.open() as client:
            found = client.get_store_stats()
    else:
        with _offline():
            from service import offline

            found = offline.stats(data)
    if as_json:
        show_json(found)
    else:
        _show_stats(found, console())


@app.command()
@grouped
def verify(data: Directory = None, *, service: ServiceOptions) -> None:
    """Read and check everything in the store. Exit status 1 when it finds a fault."""
    out = console()
    if data is None:
        with service.open() as client:
            result = _follow(client.verify_store(), out)
    else:
        with _offline():
            from service import offline

            result = _follow(offline.verify(data), out)
    _show_result(result, out)
    if result.faults:
        raise typer.Exit(1)


@app.command()
@grouped
def clock(
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Confirm the server's clock. Fails when this machine's clock differs."
        ),
    ] = False,
    as_json: AsJson = False,
    *,
    service: ServiceOptions,
) -> None:
    """Show the service's clock and its state. After a jump, removals wait until the clock is trusted."""
    with service.open() as client:
        found = client.confirm_clock() if confirm else client.get_clock()
        show_one(found, _clock_facts, as_json=as_json)


@app.command()
@grouped
def backup(
    name: Annotated[str, typer.Argument(help="Name of the backup, a new directory on the server.")],
    as_json: AsJson = False,
    *,
    service: ServiceOptions,
) -> None:
    """Write a consistent copy of the store to the server's backup directory, while it serves.

    The copy is verified; a damaged store is not backed up.
    """
    with service.open() as client:
        made = client.create_backup(name)
    if as_json:
        show_json(made)
    else:
        print(f"{made.directory}  (revision {made.revision})")


@app.command()
@grouped
def backups(as_json: AsJson = False, *, service: ServiceOptions) -> None:
    """List the backups on the server, newest first."""
    with service.open() as client:
        show_many(
            client.list_backups(),
            ["backup", "created", "size", "directory"],
            _backup_row,
            as_json=as_json,
        )


@app.command("delete-backup")
@grouped
def delete_backup(
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="Id or name of the backup.")],
    *,
    service: ServiceOptions,
) -> None:
    """Delete a backup on the server."""
    with service.open() as client:
        client.delete_backup(backup)
    print(f"deleted {names.backup(names.last_id(backup))}")


@app.command()
def restore(
    backup: Annotated[Path, typer.Argument(help="Directory of a backup.")],
    data: Annotated[
        Path, typer.Option("--data", help="Directory of the new store. It must be empty, or is made.")
    ],
) -> None:
    """Restore a backup into an empty or new directory. Verifies the backup first."""
    with _offline():
        from service import offline

        restored = offline.restore(backup, data)
        without_key = offline.outputs_without_key(data)
    print(f"restored {number(restored.users)} users and {number(restored.events)} events into {data}")
    if restored.revision != restored.checkpointed_revision:
        print("its log holds more, which counts once the service has started")
    print(f"the store is now {restored.store_id}; earlier revisions are refused")
    if without_key:
        print(f"copy the key file to {data / 'secrets.key'}, or give these outputs their secrets again:")
    for output in without_key[:OUTPUTS_SHOWN_MAX]:
        print(f"  {output}")
    if len(without_key) > OUTPUTS_SHOWN_MAX:
        print(f"  and {number(len(without_key) - OUTPUTS_SHOWN_MAX)} more")


@app.command()
@grouped
def export(
    to: Annotated[
        str,
        typer.Option(
            "--to", envvar="MILEPOST_STORE", help="URL of the new store: clickhouse://…?gateway=DIR."
        ),
    ],
    backup: Annotated[
        Path | None,
        typer.Argument(
            help="Directory of a backup, or of a store that no service has open. Without it the service makes"
            " a backup, whose directory has to be on this machine."
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Export nothing: compare again what was exported.")
    ] = False,
    *,
    service: ServiceOptions,
) -> None:
    """Export users' data into a cluster, and all else into its gateway's directory, while the store serves.

    Run it again to go on with an export that was interrupted. Exit status 1 when a partition of a server
    differs from the backup.
    """
    if backup is None:
        with service.open() as client:
            backup = Path(client.create_backup(f"export-{int(time.time())}").directory)
        print(f"exporting {backup}; name it to go on with this export")
    out = console()
    with _offline():
        from service import offline

        with _moving(out) as told:
            moved = (offline.compare if compare else offline.export)(backup, to, told)
    for difference in moved.differences[:DIFFERENCES_SHOWN_MAX]:
        print(printable(str(difference)), file=sys.stderr)
    more = len(moved.differences) - DIFFERENCES_SHOWN_MAX
    if more > 0:
        print(f"and {number(more)} more partitions", file=sys.stderr)
    if moved.differences:
        raise typer.Exit(1)
    rows = ", ".join(f"{number(count)} rows of {table}" for table, count in sorted(moved.rows.items()))
    print(f"{number(moved.users)} users, {rows}: every server agrees, as of revision {moved.revision}")


@app.command("add-shard")
def add_shard(
    store: Annotated[
        str,
        typer.Option(
            "--store",
            envvar="MILEPOST_STORE",
            help="URL of the store, with the servers to add as its last shard.",
        ),
    ],
) -> None:
    """Add a shard to a store in a cluster that no service has open.

    Half of the partitions of the largest shard move to the new servers. Run it again when it was interrupted.
    """
    out = console()
    with _offline():
        from service import offline

        with _moving(out) as told:
            moved = offline.add_shard(store, told)
    print(f"added; the store has {number(moved.users)} users, as of revision {moved.revision}")


ClusterUrl = Annotated[
    str,
    typer.Option(
        "--store", envvar="MILEPOST_STORE", help="URL of a store in a cluster that no service has open."
    ),
]
MappedInput = Annotated[
    str, typer.Argument(metavar="INPUT", help="An input: accounts/…/workspaces/…/inputs/….")
]


@app.command("map-events")
def map_events(
    input_: MappedInput,
    table: Annotated[
        str | None,
        typer.Option("--table", help="The table or view: DATABASE.NAME, on every server."),
    ] = None,
    settle_s: Annotated[
        float,
        typer.Option(
            "--settle-s",
            min=0.0,
            help="Seconds for which a mark is known before its rows count: longer than an insert takes to be"
            " on every server.",
        ),
    ] = SETTLE_S,
    again: Annotated[
        bool, typer.Option("--again", help="Count the rows of the table of the input as they are now.")
    ] = False,
    *,
    store: ClusterUrl,
) -> None:
    """Read the events of an input from a table of your own, in place.

    It has a row an event: user, name, time, and a mark that never goes back; perhaps type, attributes,
    numbers, bools, times and lists. Start the service afterwards: it follows the marks.
    """
    if again == (table is not None):
        raise typer.BadParameter("give either --table or --again")
    with _offline():
        from service import offline

        if table is None:
            revision = offline.recount_events(store, input_)
        else:
            revision = offline.map_events(store, input_, table, settle_s)
    done = "counted again" if table is None else f"read from {table}"
    print(f"{input_} is {done} from revision {revision} on")


@app.command("unmap-events")
def unmap_events(input_: MappedInput, *, store: ClusterUrl) -> None:
    """Read the events of an input from its table no more. They do not count from then on; users stay."""
    with _offline():
        from service import offline

        revision = offline.unmap_events(store, input_)
    print(f"the events of {input_} do not count from revision {revision} on")


@contextmanager
def _moving(out: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Shows how far a move is, in a terminal: its step, pages that are done, and all of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pages"))
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def told(step: str, pages: int, pages_total: int) -> None:
            progress.update(task, description=step, completed=pages, total=pages_total)

        yield told


@app.command()
def compact(data: Data) -> None:
    """Rewrite the files of a store without free pages and deleted data."""
    with _offline():
        from service import offline

        before_bytes, after_bytes = offline.compact(data)
    print(f"{size(before_bytes)} before, {size(after_bytes)} now")


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
        print(f"the store in {data} is now {store_id}; earlier revisions are refused")


@contextmanager
def _offline() -> Iterator[None]:
    """Prints the error of an operation on a directory, and exits with status 1."""
    require_service()
    from service.offline import OfflineError

    try:
        yield
    except OfflineError as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


# --- verify -------------------------------------------------------------------------------------------------


def _follow(responses: Iterable[VerifyStoreResponse], out: Console) -> VerifyResult:
    """Prints faults as they are found, a progress bar in a terminal, and the result."""
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
    CLOCK_STATE_FOLLOWED: "trusted for answers, removals wait",
    CLOCK_STATE_HELD: "it jumped; answers and removals wait",
}


def _clock_facts(found: Clock) -> Facts:
    waits = bool(found.wait.ToMicroseconds())
    return [
        ("clock", found.wall_time.ToJsonString()),
        ("believed", _CLOCK_STATES.get(found.state, "")),
        ("time for answers", found.time.ToJsonString()),
        ("time for removals", found.settled_time.ToJsonString()),
        ("settled in", f"{number(found.wait.ToSeconds())} s, if it stays steady" if waits else ""),
    ]


# --- stats --------------------------------------------------------------------------------------------------


def _show_stats(found: GetStoreStatsResponse, out: Console) -> None:
    facts = [
        ("store", found.store_id),
        ("revision", found.revision),
        ("checkpointed into the index", found.checkpointed_revision),
        ("format version", str(found.format_version)),
        ("users", number(found.users)),
        ("events", number(found.events)),
        ("rows of erased users", "still being rewritten" if found.purging else "none"),
    ]
    show_facts(out, facts)
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
            *map(size, (file.disk_bytes, file.used_bytes, file.free_bytes)),
            size(file.limit_bytes) if file.limit_bytes else "",
        ]
        for file in found.files
    ]
    show_table(out, ["file", "on disk", "used", "free inside", "limit"], files, right=(1, 2, 3, 4))


def _backup_row(backup: Backup) -> list[str]:
    return [
        names.last_id(backup.name),
        moment(backup.create_time),
        size(backup.size_bytes),
        backup.directory,
    ]
