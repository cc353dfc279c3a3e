"""What of an account's rows counts, and how many they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from engine.backends.base import EventRecord, Record
from engine.backends.clickhouse.gateway.keys import ACCOUNTS, account_key, account_of
from engine.backends.clickhouse.mapped import MappedTable
from engine.backends.clickhouse.view import Base, View
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.backends.local.storage.unwritten import Unwritten
from engine.backends.local.storage.write_ahead_log import FollowEntry
from engine.criteria.zones import SPAN_MICROS
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros


class AccountRows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one account. Never changed in place: a view shares it."""

    cuts: dict[str, int] = {}
    """By user that was erased or moved, the revision up to which its rows do not count any more."""
    removals: tuple[tuple[Micros, int], ...] = ()
    """Events before an instant do not count if they came by a revision: (instant, revision)."""
    spans: frozenset[int] = frozenset()
    """The spans of time that have events."""
    events: int = 0
    """Events added, without those known to be removed."""
    first_time: Micros = TIME_MAX_MICROS
    last_time: Micros = TIME_MIN_MICROS
    """Between which the events lie that were added."""
    base: Base | None = None
    """What rows up to a revision came to. Rows stay, so that it can be left out at any time."""
    writes: int = 0
    """Records added since the base."""
    mapped: tuple[MappedTable, ...] = ()
    """Tables of others that have events too, and how far they were followed."""

    def added(self, records: Sequence[Record]) -> AccountRows:
        """With more records."""
        writes = self.writes + len(records)
        times = [record.time for record in records if type(record) is EventRecord]
        if not times:
            return msgspec.structs.replace(self, writes=writes)
        return msgspec.structs.replace(
            self,
            writes=writes,
            spans=self.spans.union(time // SPAN_MICROS for time in times),
            events=self.events + len(times),
            first_time=min(self.first_time, *times),
            last_time=max(self.last_time, *times),
        )

    def known_table(self, input_name: str) -> MappedTable | None:
        """The table that has, or had, the events of an input; None when there is none."""
        return next((each for each in self.mapped if each.input == input_name), None)

    def table_of(self, input_name: str) -> MappedTable | None:
        """The table that has the events of an input; None when there is none."""
        known = self.known_table(input_name)
        return known if known is not None and known.is_on else None

    def with_table(self, mapped: MappedTable) -> AccountRows:
        """With another state of the table of an input, or its first."""
        before = self.known_table(mapped.input)
        others = (each for each in self.mapped if each is not before)
        events = self.events + _events(mapped) - (0 if before is None else _events(before))
        return msgspec.structs.replace(self, mapped=(*others, mapped), events=events)

    def without_tables(self, covers: Callable[[str], bool]) -> AccountRows:
        """Without the tables of some inputs, for good."""
        gone = [each for each in self.mapped if covers(each.input)]
        kept = tuple(each for each in self.mapped if each not in gone)
        return msgspec.structs.replace(self, mapped=kept, events=self.events - sum(map(_events, gone)))

    def followed(self, mapped: MappedTable, entry: FollowEntry) -> AccountRows:
        """With a table as an entry leaves it."""
        return msgspec.structs.replace(
            self.with_table(mapped),
            writes=self.writes + len(entry.users),
            spans=self.spans.union(entry.spans),
            first_time=min(self.first_time, *(user.first for user in entry.users), TIME_MAX_MICROS),
            last_time=max(self.last_time, *(user.last for user in entry.users), TIME_MIN_MICROS),
        )

    def cut(self, users: Collection[str], revision: int) -> AccountRows:
        """Without the rows of users up to a revision."""
        return msgspec.structs.replace(self, cuts=self.cuts | dict.fromkeys(users, revision))

    def removed(self, before: Micros, revision: int) -> AccountRows:
        """Without the events before an instant that came by a revision."""
        kept = (each for each in self.removals if each[0] > before)
        mapped = tuple(each.removed(before) for each in self.mapped)
        return msgspec.structs.replace(self, removals=(*kept, (before, revision)), mapped=mapped)

    def swept(self, view: View, events: int) -> AccountRows:
        """After the rows that a view excludes are gone; that many events fewer."""
        cuts = {user: cut for user, cut in self.cuts.items() if view.cuts.get(user) != cut}
        removals = tuple(each for each in self.removals if each not in view.removals)
        return msgspec.structs.replace(self, cuts=cuts, removals=removals, events=self.events - events)

    def excluded(self, account: str, through: int) -> View | None:
        """What is excluded for good by a revision; None when nothing is."""
        cuts = {user: cut for user, cut in self.cuts.items() if cut <= through}
        removals = tuple(each for each in self.removals if each[1] <= through)
        if not cuts and not removals:
            return None
        return View(account=account, revision=through, cuts=cuts, removals=removals, base=self.base)

    def view(self, account: str, revision: int) -> View:
        """What counts at a revision."""
        return View(
            account=account,
            revision=revision,
            cuts=self.cuts,
            removals=self.removals,
            event_spans=tuple(sorted(self.spans)),
            base=self.base,
            mapped=tuple(each for each in self.mapped if each.is_on),
        )


def _events(mapped: MappedTable) -> int:
    """The events that a table gives."""
    return mapped.events if mapped.is_on else 0


_NOTHING = AccountRows()
encode_account: Callable[[AccountRows], bytes] = msgspec.msgpack.Encoder().encode
"""The rows of an account as stored."""
_decoder = msgspec.msgpack.Decoder(AccountRows)


class AllRows(Unwritten[str, AccountRows]):
    """The rows of every account, by its name. Kept when an account is forgotten, for as long as rows of it
    are excluded.
    """

    def __init__(self, txn: ReadTransaction) -> None:
        super().__init__()
        self._rows = {account_of(stored): _decoder.decode(value) for stored, value in txn.scan(ACCOUNTS)}

    def of(self, account: str) -> AccountRows:
        """The rows of an account."""
        return self._rows.get(account, _NOTHING)

    def put(self, account: str, rows: AccountRows) -> None:
        """The rows of an account from now on."""
        self._rows[account] = self.fresh[account] = rows

    def accounts(self) -> Iterator[str]:
        """The accounts with rows."""
        return iter(list(self._rows))

    def write(self, txn: Writable) -> None:
        """Writes what has changed since the last checkpoint."""
        for account, rows in self.writing.items():
            txn.put(account_key(account), encode_account(rows))
