"""Exports a backup of an embedded store into a cluster, step by step.

1. The backup is restored below the gateway's directory, with a new id, and compacted: from then on the order
   of its rows is fixed.
2. Its rows go to every server, page by page. A page has a token of its own, so one that is sent again after
   an interruption adds nothing.
3. Every partition of every server is compared with the source.
4. What the gateway keeps itself becomes its directory. Only then a service starts in it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.backends.base import StoreFigures
from engine.backends.base.moving import Moved, MoveProgress, Told
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.gateway.account_rows import AccountRows, encode_account
from engine.backends.clickhouse.gateway.keys import OWNER, account_key
from engine.backends.clickhouse.gateway.location import Location, location_of
from engine.backends.clickhouse.gateway.open_cluster import cluster_at
from engine.backends.clickhouse.gateway.owner import Owner, claim
from engine.backends.clickhouse.moving.counts import counts_of_source, differences
from engine.backends.clickhouse.moving.source import Page, Source
from engine.backends.clickhouse.rows import Batch
from engine.backends.clickhouse.writer import Writer
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.storage.building import put_parts_in_place, sync_directory, unfinished_inside
from engine.backends.local.storage.copying import write_copy
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.key_ranges import record_key
from engine.backends.local.storage.keys import Family, family_of
from engine.backends.local.storage.ownership import Stage, StoreLock, read_identity
from engine.backends.local.storage.parts import STORE_PARTS, refuse_foreign_content
from engine.backends.local.storage.private import make_directory
from engine.backends.local.storage.viewing import viewed
from engine.errors import FailedPrecondition

SOURCE = "moving"
"""The directory of the restored backup, in that of the gateway."""
PROGRESS = "moving.json"

IN_CLUSTER = frozenset(
    {
        *(Family.PROFILE, Family.PROFILED, Family.WRITE_TIMES),
        *(Family.FIELD_PRESENT, Family.FIELD_VALUE, Family.FIELD_TEXT, Family.FIELD_COLUMN),
        *(Family.EVENT_TABLE, Family.EVENT_SLICE, Family.EVENT_COLUMN, Family.EVENT_CHECKPOINT),
    }
)
"""Families of keys that a gateway does not have: their data are rows of the cluster."""


class _State(msgspec.Struct):
    """What is known of an export under way."""

    backup_id: str
    revision: int
    pages: int = 0


def export(backup: Path, location: str, told: Told) -> Moved:
    """Exports a backup, or the directory of a store that no service has open, and goes on with an export of
    it that was interrupted.

    Raises FailedPrecondition when the gateway's directory has something else, or a server has other rows;
    StoreUnavailable when a server does not answer; DataLoss when the backup is damaged.
    """
    place = location_of(location)
    figures = offline.store_figures(backup)
    with _begun(place.gateway, figures) as lock, _connected(place) as cluster:
        source_directory = _restored(backup, place.gateway)
        store_id = offline.store_figures(source_directory).store_id
        owner = Owner(store_id, len(cluster.shards))
        for shard in cluster.shards:
            for replica in shard.replicas:
                claim(replica.server, owner, shard.number, is_new=True)
        with _opened(source_directory) as source:
            _send(source, cluster, place.gateway, told)
            moved = _compared(source, cluster, told)
            rows = source.account_rows()
        if not moved.differences:
            _put_gateway(source_directory, place.gateway, owner, rows)
            lock.write(store_id)
            _clear(place.gateway)
    return moved


def compare(backup: Path, location: str, told: Told) -> Moved:
    """Compares the rows of every server with the backup that was exported, before anything else is written.
    Raises as `export`.
    """
    place = location_of(location)
    with _connected(place) as cluster, unfinished_inside(place.gateway) as unfinished:
        offline.restore(backup, unfinished / SOURCE)
        with _opened(unfinished / SOURCE) as source:
            return _compared(source, cluster, told)


# --- steps --------------------------------------------------------------------------------------------------


@contextmanager
def _begun(directory: Path, figures: StoreFigures) -> Iterator[StoreLock]:
    """Owns the directory of the gateway, which is new or has an export of the same backup that was
    interrupted.
    """
    make_directory(directory)
    identity = read_identity(directory)
    if identity is None:
        refuse_foreign_content(directory)
    elif identity.stage is not Stage.MOVING:
        raise FailedPrecondition(f"{directory} already holds a store", reason="DIRECTORY_NOT_EMPTY")
    lock = StoreLock(directory)
    try:
        found = _State(figures.store_id, figures.revision)
        if identity is None:
            lock.write(figures.store_id, Stage.MOVING)
        state = _read(directory) or found
        if (state.backup_id, state.revision) != (found.backup_id, found.revision):
            raise FailedPrecondition(
                f"{directory} has an export of another backup that was interrupted (revision"
                f" {state.revision} of {state.backup_id}): export that one, or empty the directory and drop"
                " the databases"
            )
        _write(directory, state)
        yield lock
    finally:
        lock.release()


def _restored(backup: Path, directory: Path) -> Path:
    """The backup as a store below the directory: everything in its index, nothing left to compact."""
    source = directory / SOURCE
    identity = read_identity(source) if source.exists() else None
    if identity is None or identity.stage is not Stage.COMPLETE:
        offline.restore(backup, source)
    return source


def _send(source: Source, cluster: Cluster, directory: Path, told: Told) -> None:
    total = source.page_count()
    state = _read(directory)
    assert state is not None, "it has begun"
    writer = Writer(cluster)
    try:
        for number, page in enumerate(itertools.islice(source.pages(), state.pages, None), state.pages):
            writer.fill(Batch(revision=source.revision, rows=page()), f"-{number}")
            state.pages = number + 1
            _write(directory, state)
            told(MoveProgress("sending", state.pages, total))
    finally:
        writer.close()


def _compared(source: Source, cluster: Cluster, told: Told) -> Moved:
    total = source.page_count()

    def read() -> Iterator[Page]:
        for number, page in enumerate(source.pages(), 1):
            yield page
            told(MoveProgress("comparing", number, total))

    counts = counts_of_source(source, read())
    rows: dict[str, int] = {}
    for each in counts.values():
        for table, number in each.rows.items():
            rows[table] = rows.get(table, 0) + number
    return Moved(
        revision=source.revision,
        users=sum(each.users for each in counts.values()),
        rows=rows,
        differences=tuple(differences(cluster, counts, source.revision)),
    )


def _put_gateway(source: Path, directory: Path, owner: Owner, rows: dict[str, AccountRows]) -> None:
    """Makes the files of the gateway out of those of the source."""
    for part in STORE_PARTS:
        shutil.rmtree(directory / part, ignore_errors=True)
    with unfinished_inside(directory) as unfinished:
        with viewed(source, read_identity(source)) as view:
            write_copy(view.log, unfinished / "log")
            write_copy(view.index, unfinished / "index", keeps=_is_kept)
        index = Environment(unfinished / "index")
        try:
            with index.writing() as txn:
                for family in IN_CLUSTER:
                    txn.delete_prefix(record_key(bytes((family.code,))))
                txn.put(OWNER, msgspec.msgpack.encode(owner))
                for account, each in rows.items():
                    txn.put(account_key(account), encode_account(each))
        finally:
            index.close()
        put_parts_in_place(unfinished, directory)


def _is_kept(stored: bytes) -> bool:
    return family_of(stored) not in IN_CLUSTER


def _clear(directory: Path) -> None:
    (directory / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(directory / SOURCE, ignore_errors=True)


# --- what is open -------------------------------------------------------------------------------------------


@contextmanager
def _connected(place: Location) -> Iterator[Cluster]:
    cluster = cluster_at(place)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def _opened(directory: Path) -> Iterator[Source]:
    backend = LocalBackend.open(directory)
    try:
        # From then on nothing changes the order of rows.
        backend.settle()
        yield Source(backend)
    finally:
        backend.close()


def _read(directory: Path) -> _State | None:
    try:
        return msgspec.json.decode((directory / PROGRESS).read_bytes(), type=_State)
    except FileNotFoundError:
        return None


def _write(directory: Path, state: _State) -> None:
    """Replaces the progress, durably."""
    new = directory / f"{PROGRESS}.new"
    with new.open("wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    new.replace(directory / PROGRESS)
    sync_directory(directory)
