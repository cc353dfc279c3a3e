"""Which tables of an account a checkpoint writes, and how far it is.

A checkpoint has four steps. It *freezes* the tables that have changes, while no log entry is applied: a few
microseconds a table. It *stages* them one after the other, a fraction of a millisecond each, while entries
are applied; what they add is not part of it. It writes them without the lock. Once its transaction has
committed, each table is settled when it is next read, and the others one after the other.

A table has to be staged before rows are removed from it. Else the checkpoint would store that rows are gone
which a later entry of the log removed, and a replay of that entry would not find them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from engine.backends.local.events.cache import Keeping, Loader
from engine.backends.local.events.compaction import Allowances
from engine.backends.local.events.table import LastCheckpoint, Table
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable


class TableCheckpoints:
    """The checkpoints of the tables of one account. Call every method except `write` with the backend's state
    lock held.
    """

    def __init__(self, loader: Loader, account: int) -> None:
        self._loader = loader
        self._key = key(Family.EVENT_CHECKPOINT, account)
        self._number = 0
        self.last = LastCheckpoint()
        self._changed: dict[Table, None] = {}
        """Tables with rows or removals that are in no checkpoint."""
        self._unfinished: dict[Table, None] = {}
        """Tables of which stored rows are to be rewritten, those that waited longest first."""
        self._frozen: dict[Table, None] = {}
        """Tables that the checkpoint under way has still to stage."""
        self._staged: list[Table] = []
        """Those that it has staged."""
        self._new_rows = 0
        """Rows that came since the last checkpoint began."""
        self._allowances = Allowances(0)

    def begin(self, txn: ReadTransaction, tables: Iterable[Table]) -> None:
        """Takes up the tables as they are stored."""
        self._number = self.last.number = self._committed(txn)
        self._unfinished = dict.fromkeys(table for table in tables if table.is_unfinished)

    def _committed(self, txn: ReadTransaction) -> int:
        stored = txn.get(self._key)
        return 0 if stored is None else int.from_bytes(stored, "big")

    # --- what changes ---------------------------------------------------------------------------------------

    def added(self, rows: int) -> None:
        """Counts new rows, by which the allowance of the next checkpoint grows."""
        self._new_rows += rows

    def changed(self, table: Table) -> None:
        """The table has new rows, or fewer."""
        self._changed[table] = None

    def removes_from(self, table: Table) -> None:
        """Rows of the table are about to be removed. Call within a session."""
        if table in self._frozen:
            self._stage(table)

    def dropped(self, table: Table) -> None:
        """The table is not used any more."""
        self._changed.pop(table, None)
        self._unfinished.pop(table, None)

    @property
    def changed_tables(self) -> Iterable[Table]:
        """Tables with rows or removals that are in no checkpoint."""
        return self._changed

    @property
    def is_purging(self) -> bool:
        """Whether removed rows are still stored that a checkpoint has to purge."""
        return any(table.is_purging for table in self._all())

    @property
    def needs_compaction(self) -> bool:
        """Whether a checkpoint would merge parts even without new rows."""
        return any(table.record.needs_compaction for table in self._all())

    def _all(self) -> Iterator[Table]:
        for tables in (self._changed, self._unfinished, self._frozen, self._staged):
            yield from tables

    # --- reads ----------------------------------------------------------------------------------------------

    @property
    def may_have_committed(self) -> bool:
        """Whether what is stored may be newer than what the tables know."""
        return bool(self._staged) and not self._frozen

    def notice(self, txn: ReadTransaction) -> None:
        """Tables are read as of this transaction from now on."""
        if self.may_have_committed and self._committed(txn) == self._number:
            self.last.number = self._number

    # --- the steps ------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The rows of now are part of a new checkpoint. Call within a session, while no entry is applied."""
        # The one before has not committed, or nobody has read the table since.
        for table in self._staged:
            self._settle(table)
            if table.unstage():
                self._changed[table] = None
        self._staged = []
        # A concurrent read must not take the previous checkpoint for this one.
        self._number += 1
        self._frozen = {**self._unfinished, **self._frozen, **self._changed}
        for table in self._changed:
            table.freeze()
        self._changed = {}
        self._allowances, self._new_rows = Allowances(self._new_rows), 0

    def stage_next(self) -> bool:
        """Decides what of the next table is written. False: all are staged. Call within a session."""
        if not self._frozen:
            return False
        self._stage(next(iter(self._frozen)))
        return True

    def _stage(self, table: Table) -> None:
        if table.has_work(self._allowances):
            # What is read here is not read again: the cache is for what questions need.
            with self._loader.keeping(Keeping.NOTHING):
                table.stage(self._allowances, self._number)
            self._staged.append(table)
        del self._frozen[table]

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        """Writes what was staged. Needs no lock: others may read and change the tables meanwhile."""
        for table in self._staged:
            table.write(txn)
            pause()
        if self._staged:
            txn.put(self._key, self._number.to_bytes(8, "big"))

    def settle_next(self) -> bool:
        """Finishes the next table of a checkpoint that has committed. False: all are finished. Call within a
        session.
        """
        if not self._staged:
            return False
        self._settle(self._staged.pop())
        return True

    def _settle(self, table: Table) -> None:
        table.settle()
        # Others go first next time.
        self._unfinished.pop(table, None)
        if table.is_unfinished:
            self._unfinished[table] = None
