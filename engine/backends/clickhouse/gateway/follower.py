"""Follows tables of others (`mapped.py`): new rows' ids, names and times are read, never the rows themselves.

A look takes the marks that have settled, in pieces of bounded size, and logs an entry for each: users become
known and dirty, and the piece counts, in one step. All servers that answer have to agree on how many rows
that is. So a server whose copy is late holds up the next piece, and is not read meanwhile; no answer is
smaller for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, Literal

import msgspec

from engine.backends.base import Appended
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.gateway.cluster_state import ClusterState
from engine.backends.clickhouse.mapped import MARK, MappedTable, Reach
from engine.backends.clickhouse.query.literals import all_of
from engine.backends.clickhouse.query.mapped import (
    at_mark,
    below_mark,
    beyond,
    mark_number,
    raw_partition,
    raw_rows,
    within,
)
from engine.backends.clickhouse.server import Server
from engine.backends.local.storage.write_ahead_log import FollowedUser, FollowEntry, LogEntry
from engine.clock import Stamp
from engine.criteria.model import EventType
from engine.criteria.zones import SPAN_MICROS
from engine.errors import InvalidInput, MilepostError, StoreUnavailable
from engine.measures import Counter

ROWS_AT_ONCE = 20_000
"""Rows of one entry, about. Of an insert with one mark at least a partition of users is taken at once."""
LOOKING_SHARE_OF_TIME = 0.1
"""Share of the time in which it looks whether there are new rows, at most: a table that is neither sorted nor
partitioned by its marks is scanned for that.
"""
CANDIDATES_MAX = 1_000
"""Marks that are known and have not settled. More are not noted until some have."""

Write = Callable[[Callable[[Stamp], LogEntry]], Appended]

_log = logging.getLogger(__name__)


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What some rows say of their users."""

    reach: Reach
    rows: int
    """Those beyond the reach before."""
    events: int
    kinds: tuple[tuple[str, EventType], ...]
    users: tuple[FollowedUser, ...]
    spans: tuple[int, ...]


class Follower:
    """Looks at all tables of others. One look at a time."""

    def __init__(self, cluster: Cluster, state: ClusterState, write: Write) -> None:
        self._cluster, self._state, self._write = cluster, state, write
        self._looking = threading.Lock()
        self._marks: dict[int, deque[tuple[float, int]]] = {}
        """By source, when a mark became known."""
        self.rows = Counter()
        """Rows that were followed."""

    def run(self, closing: threading.Event, look_s: float) -> None:
        """The background thread."""
        wait_s = look_s
        while not closing.wait(wait_s):
            began, pieces = monotonic(), 0
            try:
                pieces = self.look(closing)
            except MilepostError as error:
                _log.warning("tables of others are not followed: %s", error.message)
            except Exception:
                _log.exception("following tables of others failed")
            looked_s = (monotonic() - began) / (pieces + 1)
            wait_s = max(look_s, looked_s * (1 / LOOKING_SHARE_OF_TIME - 1))

    def look(self, closing: threading.Event | None = None) -> int:
        """Takes everything that has settled, and returns in how many pieces. One table that fails does not
        hold up the others: the first of their errors is raised in the end.
        """
        pieces = 0
        failures: list[MilepostError] = []
        with self._looking:
            for account, mapped in self._tables():
                try:
                    for _ in self._pieces(account, mapped):
                        pieces += 1
                        if closing is not None and closing.is_set():
                            return pieces
                except MilepostError as error:
                    failures.append(error)
        if failures:
            raise failures[0]
        return pieces

    def _tables(self) -> list[tuple[str, MappedTable]]:
        with self._state.locked():
            rows = self._state.rows
            tables = [
                (account, each)
                for account in rows.accounts()
                for each in rows.of(account).mapped
                if each.is_on
            ]
        self._marks = {each.source: self._marks.get(each.source, deque()) for _, each in tables}
        return tables

    def _pieces(self, account: str, mapped: MappedTable) -> Iterator[None]:
        """Takes pieces up to the last mark that has settled."""
        settled = self._settled(mapped)
        while settled is not None and mapped.reach < Reach(settled):
            server = self._server()
            reach = _next_reach(server, mapped, settled)
            piece = self._read(server, mapped, reach)
            mapped = _with(mapped, piece)
            self._log_piece(account, mapped, piece)
            self.rows.add(piece.rows)
            yield

    def recount(self, account: str, mapped: MappedTable) -> None:
        """Reads again what was followed of a table, as it is now. What counts changes with the last piece."""
        with self._looking:
            again = msgspec.structs.replace(mapped, reach=Reach(), rows=0, events=0)
            while again.reach < mapped.reach:
                server = self._server()
                reach = min(_next_reach(server, again, mapped.reach.mark), mapped.reach)
                piece = self._read(server, again, reach)
                again = _with(again, piece)
                is_last = again.reach == mapped.reach
                self._log_piece(account, again if is_last else mapped, piece, "anew" if is_last else "users")

    def _log_piece(
        self,
        account: str,
        mapped: MappedTable,
        piece: _Piece,
        gives: Literal["more", "users", "anew"] = "more",
    ) -> None:
        """Logs what a piece says of its users, and how the table is afterwards."""
        self._write(
            lambda at: FollowEntry(
                account,
                at.arrival,
                mapped.source,
                mapped.reach.mark,
                mapped.reach.partition,
                mapped.rows,
                mapped.events,
                piece.kinds,
                piece.users,
                piece.spans,
                gives,
                at.settled,
            )
        )

    def _read(self, server: Server, mapped: MappedTable, reach: Reach) -> _Piece:
        """The next piece. Raises StoreUnavailable when servers have different rows of it."""
        agreed = self._agreed(mapped, reach)
        piece = _piece(server, mapped, reach)
        if piece.rows != agreed:
            raise StoreUnavailable(f"the rows of {mapped.table} change while they are read")
        return piece

    def _settled(self, mapped: MappedTable) -> int | None:
        """The last mark that has been known for long enough; None when nothing is new."""
        now, known = monotonic(), self._marks.setdefault(mapped.source, deque())
        newest = _newest(self._server(), mapped)
        if newest is not None and len(known) < CANDIDATES_MAX and (not known or known[-1][1] < newest):
            known.append((now, newest))
        settled = None
        while known and known[0][0] <= now - mapped.settle_s:
            settled = known.popleft()[1]
        if settled is None and not mapped.reach.is_whole:
            return mapped.reach.mark
        return settled

    def _server(self) -> Server:
        """One that answers. Raises StoreUnavailable."""
        for server in self._servers():
            return server
        raise StoreUnavailable("no server answers")

    def _servers(self) -> Iterator[Server]:
        for replica in self._cluster.replicas():
            if replica.server.is_alive():
                yield replica.server

    def _agreed(self, mapped: MappedTable, reach: Reach) -> int:
        """The number of new rows up to a reach. Raises StoreUnavailable when servers have different ones."""
        counts = {server.address.name: _count(server, mapped, reach) for server in self._servers()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
            raise StoreUnavailable(
                f"the servers have different numbers of new rows of {mapped.table}: {told}"
            )
        return next(iter(counts.values()))


def columns_of(cluster: Cluster, table: str) -> dict[str, str]:
    """The type of each column of a table. Raises StoreUnavailable when some server has no such table or does
    not answer, InvalidInput when it has other columns on another server.
    """
    found: dict[str, str] = {}
    for replica in cluster.replicas():
        rows = _query(replica.server, f"DESCRIBE TABLE {table}")
        own = {row[0]: row[1] for row in rows}
        if found and own != found:
            raise InvalidInput.one("table", "has other columns on another server")
        found = own
    return found


def _query(server: Server, statement: str) -> Sequence[Sequence[Any]]:
    return server.query(statement, reads_others=True)


def _newest(server: Server, mapped: MappedTable) -> int | None:
    """The highest mark of rows that were not followed; None without any."""
    where = beyond(mapped, mapped.reach)
    new = f"SELECT count() AS rows, max({MARK}) AS newest FROM {mapped.table} WHERE {where}"
    ((count, newest),) = _query(server, f"SELECT rows, {mark_number(mapped, 'newest')} FROM ({new})")
    return int(newest) if count else None


def _next_reach(server: Server, mapped: MappedTable, settled: int) -> Reach:
    """The end of the next piece, up to a mark."""
    if not mapped.reach.is_whole:
        return _within_mark(server, mapped, mapped.reach.mark)
    new = all_of([beyond(mapped, mapped.reach), within(mapped, Reach(settled))])
    mark = mark_number(mapped)
    after = _query(
        server,
        f"SELECT {mark} FROM {mapped.table} WHERE {new} ORDER BY {MARK} LIMIT 1 OFFSET {ROWS_AT_ONCE}",
    )
    if not after:
        return Reach(settled)
    ((first_left_out,),) = after
    fitting = all_of([beyond(mapped, mapped.reach), below_mark(mapped, first_left_out)])
    ((count, last),) = _query(server, f"SELECT count(), max({mark}) FROM {mapped.table} WHERE {fitting}")
    return Reach(last) if count else _within_mark(server, mapped, first_left_out)


def _within_mark(server: Server, mapped: MappedTable, mark: int) -> Reach:
    """The end of the next piece of rows that have one mark: as many partitions as fit, at least one."""
    new = all_of([beyond(mapped, mapped.reach), at_mark(mapped, mark)])
    statement = (
        f"SELECT {raw_partition()} AS p, count() FROM {mapped.table} WHERE {new} GROUP BY p ORDER BY p"
    )
    taken, last = 0, None
    for p, rows in _query(server, statement):
        if last is not None and taken + rows > ROWS_AT_ONCE:
            return Reach(mark, last)
        taken, last = taken + rows, p
    return Reach(mark)


def _count(server: Server, mapped: MappedTable, reach: Reach) -> int:
    """The rows beyond those that were followed, up to a reach."""
    new = all_of([beyond(mapped, mapped.reach), within(mapped, reach)])
    ((count,),) = _query(server, f"SELECT count() FROM {mapped.table} WHERE {new}")
    return int(count)


def _piece(server: Server, mapped: MappedTable, reach: Reach) -> _Piece:
    """What the rows up to a reach say of their users."""
    new = all_of([beyond(mapped, mapped.reach), within(mapped, reach)])
    span = f"intDiv(time - positiveModulo(time, {SPAN_MICROS}), {SPAN_MICROS})"
    statement = (
        "SELECT is_valid, if(is_valid, user, '') AS id, min(time), max(time), count(),"
        f" groupUniqArrayIf((name, type), is_valid), groupUniqArrayIf({span}, is_valid)"
        f" FROM ({raw_rows(mapped, new)}) GROUP BY is_valid, id"
    )
    rows = events = 0
    kinds: dict[tuple[str, int], int] = {}
    users: list[FollowedUser] = []
    spans: set[int] = set()
    for is_valid, user, first, last, count, named, own_spans in _query(server, statement):
        rows += count
        if not is_valid:
            _log.warning(
                "%d rows of %s are left out: an id, name, type or time is wrong", count, mapped.table
            )
            continue
        events += count
        spans.update(own_spans)
        own = tuple(kinds.setdefault((name, type_), len(kinds)) for name, type_ in named)
        users.append(FollowedUser(user, first, last, own))
    return _Piece(
        reach=reach,
        rows=rows,
        events=events,
        kinds=tuple((name, EventType(type_)) for name, type_ in kinds),
        users=tuple(sorted(users, key=lambda user: user.user_id)),
        spans=tuple(sorted(spans)),
    )


def _with(mapped: MappedTable, piece: _Piece) -> MappedTable:
    """A table once a piece is followed."""
    return msgspec.structs.replace(
        mapped,
        reach=piece.reach,
        rows=mapped.rows + piece.rows,
        events=mapped.events + piece.events,
    )
