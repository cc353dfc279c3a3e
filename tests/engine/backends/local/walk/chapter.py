"""One store from its first operation to its last."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.backends.base import Appended
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.errors import FailedPrecondition
from tests.conformance.as_columns import ColumnsBackend
from tests.engine.backends.local.walk.growing import Expected, Growing
from tests.engine.backends.local.walk.questions import Questions, stored_differences
from tests.engine.backends.local.walk.store import WalkedStore, partitions_drawn_by, unsynced
from tests.oracle.strain import strained
from tests.oracle.world import Erase

OPERATIONS = 500
"""Of a chapter."""
WORLD_OPERATIONS_MAX = 120
WORLDS_AT_A_TIME = 3
ASKED_PERCENT = 12
"""Share of world operations followed by questions; other operations always are."""
STRAINED_PERCENT = 60
EMPTIED_PERCENT = 80
NEVER: Mapping[str, float] = {"checkpoint_records": 1 << 40, "checkpoint_s": 1e6}
"""Disables automatic checkpoints, which would not follow from the seed."""

KINDS: tuple[type[LocalBackend], ...] = (LocalBackend, ColumnsBackend)
TRAIL = 40
"""Operations that a report shows."""


class Differs(Exception):
    """The store and the oracle disagree; the message has the difference and the operations before it."""


class _Moment(NamedTuple):
    """The state that a backup must restore."""

    worlds: list[Growing]
    answers: dict[tuple[str, str], Appended]
    revision: int


class Chapter:
    """A random walk over one store in `room`, which is empty. `happened` counts operations by kind."""

    def __init__(self, seed: str, room: Path) -> None:
        self.happened: Counter[str] = Counter()
        self._source = random.Random(seed)
        self._room = room
        self._worlds: list[Growing] = []
        self._accounts = 0
        self._answers: dict[tuple[str, str], Appended] = {}
        """First answers, by account and request id."""
        self._revision = 0
        self._backups: dict[Path, _Moment] = {}
        self._trail: deque[str] = deque(maxlen=TRAIL)
        self._in_worlds: dict[str, Callable[[Growing], None]] = {
            "batch": self._batch,
            "alias": self._alias,
            "erase": self._erase,
            "expire": self._expire,
            "forget": self._forget,
            "refresh": self._refresh,
        }

    def walk(self, operations: int = OPERATIONS) -> None:
        """Performs that many operations. Raises Differs."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(unsynced())
            stack.enter_context(partitions_drawn_by(self._source))
            settings = LocalSettings()
            if self._source.randrange(100) < STRAINED_PERCENT:
                settings = stack.enter_context(strained(self._source))
            self._store = WalkedStore(
                self._room, msgspec.structs.replace(settings, **NEVER), self._source.choice(KINDS)
            )
            stack.callback(self._store.close)
            try:
                for _ in range(operations):
                    self._step()
                for growing in self._worlds:
                    self._ask(growing)
                _check(self._store.faults())
            except Exception as error:
                # Whatever is raised here is a fault, to be reported with the way to it.
                lines = [f"{type(error).__name__}: {error}", f"{settings}, and before it:", *self._trail]
                raise Differs("\n  ".join(lines)) from error

    def _step(self) -> None:
        [name] = self._source.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.happened[name] += 1
        self._trail.append(name)
        if name in self._in_worlds:
            self._in_worlds[name](self._some_world())
            self._look(always=False)
        else:
            self._to_the_store(name)
            self._look(always=True)

    def _some_world(self) -> Growing:
        living = [growing for growing in self._worlds if growing.length < WORLD_OPERATIONS_MAX]
        while len(living) < WORLDS_AT_A_TIME:
            self._accounts += 1
            living.append(Growing(self._source, f"accounts/w{self._accounts}"))
            self._worlds.append(living[-1])
        return self._source.choice(living)

    # --- in a world -----------------------------------------------------------------------------------------

    def _batch(self, growing: Growing) -> None:
        batch = growing.draw_batch()
        self._trail.append(f"{growing.account} {batch}")
        expected = growing.expected(batch)
        answer = self._store.backend.append(growing.account, batch.records, request_id=batch.request_id)
        self._check_answer(growing.account, batch.request_id, expected, answer)
        self._revision += 1
        growing.add(batch)

    def _check_answer(self, account: str, request_id: str, expected: Expected, answer: Appended) -> None:
        if expected.repeats:
            wanted = msgspec.structs.replace(self._answers[account, request_id], repeated=True)
        else:
            wanted = Appended(self._revision + 1, expected.accepted, expected.duplicates)
            self._answers[account, request_id] = wanted
        if answer != wanted:
            raise AssertionError(f"the batch was answered {answer}, not {wanted}")

    def _alias(self, growing: Growing) -> None:
        alias = growing.draw_alias()
        self._trail.append(f"{growing.account} {alias}")
        expected = growing.refusal_of(alias)
        refusal = ""
        try:
            self._store.backend.alias(growing.account, alias.from_user_id, alias.to_user_id)
        except FailedPrecondition as error:
            refusal = error.reason
        if refusal != expected:
            raise AssertionError(f"{alias} was refused with {refusal!r}, not {expected!r}")
        self._revision += 1
        if not refusal:
            growing.add(alias)

    def _erase(self, growing: Growing) -> None:
        self._erase_users(growing, growing.draw_erase())

    def _erase_users(self, growing: Growing, erase: Erase) -> None:
        self._trail.append(f"{growing.account} {erase}")
        named = {growing.aliases.now_called(user_id) for user_id in erase.user_ids}
        expected = len(named & growing.oracle().users.keys())
        answer = self._store.backend.erase(growing.account, erase.user_ids)
        # Ids that mean nothing are not logged; those that are aliases, or have some, are.
        if answer.revision - self._revision not in ((1,) if expected else (0, 1)):
            raise AssertionError(f"{erase} led from revision {self._revision} to {answer.revision}")
        self._revision = answer.revision
        if answer.accepted != expected:
            raise AssertionError(f"{erase} erased {answer.accepted} users, not {expected}")
        growing.add(erase)

    def _expire(self, growing: Growing) -> None:
        expire = growing.draw_expire()
        self._trail.append(f"{growing.account} {expire}")
        # Logged only when there is something to remove.
        self._revision = self._store.backend.remove_events(growing.account, expire.before)
        growing.add(expire)

    def _forget(self, growing: Growing) -> None:
        """Mostly with all its users erased before, since otherwise it is refused."""
        forget = growing.draw_forget()
        users = growing.users_below(forget)
        if users and self._source.randrange(100) < EMPTIED_PERCENT:
            self._erase_users(growing, Erase(users))
            users = ()
        self._trail.append(f"{growing.account} {forget}")
        try:
            # Logged only when the account has had data.
            self._revision = self._store.backend.forget(growing.account, forget.name)
        except FailedPrecondition:
            self._revision += 1
            if not users:
                raise
            return
        if users:
            raise AssertionError(f"{forget} was done, with {len(users)} users")
        growing.add(forget)

    def _refresh(self, growing: Growing) -> None:
        self._trail.append(growing.account)
        _check(stored_differences(self._store.side, growing))

    # --- under all of them ----------------------------------------------------------------------------------

    def _to_the_store(self, name: str) -> None:
        store = self._store
        match name:
            case "backup":
                worlds = [growing.copied() for growing in self._worlds]
                self._backups[store.back_up()] = _Moment(worlds, dict(self._answers), self._revision)
            case "checkpoint in vain":
                store.checkpoint_in_vain()
                # A store that could not checkpoint takes no more until it can.
                self._source.choice((store.checkpoint, store.restart, store.crash))()
            case "restore":
                kept = [backup for backup in self._backups if store.has(backup)]
                if kept:
                    self._restore(self._source.choice(kept))
            case _:
                {
                    "checkpoint": store.checkpoint,
                    "restart": store.restart,
                    "crash": store.crash,
                    "crash after checkpoint": store.crash_after_checkpoint,
                    "purge": store.purge,
                    "compact": store.compact,
                }[name]()

    def _restore(self, backup: Path) -> None:
        moment = self._backups[backup]
        self._store.restore(backup)
        self._worlds = [growing.copied() for growing in moment.worlds]
        self._answers = dict(moment.answers)
        self._revision = moment.revision

    # --- comparing-----------------------------------------------------------------------------------------

    def _look(self, *, always: bool) -> None:
        """Compares the store's figures and a world, always or now and then."""
        backend = self._store.backend
        if backend.revision() != self._revision:
            raise AssertionError(f"the revision is {backend.revision()}, not {self._revision}")
        if not always and self._source.randrange(100) >= ASKED_PERCENT:
            return
        users = [user for growing in self._worlds for user in growing.oracle().users.values()]
        stats = backend.stats()
        if stats.users != len(users):
            raise AssertionError(f"there are {stats.users} users, not {len(users)}")
        events = sum(len(user.events) for user in users)
        # Rows that were removed are counted until they are gone from the disk; the catalog counts exactly.
        if stats.events < events:
            raise AssertionError(f"there are {stats.events} events, fewer than {events}")
        if self._worlds:
            self._ask(self._source.choice(self._worlds))

    def _ask(self, growing: Growing) -> None:
        self._trail.append(f"asked about {growing.account}")
        _check(Questions(self._store.side, growing, self._source).differences())


WEIGHTS: dict[str, float] = {
    "batch": 60,
    "alias": 6,
    "erase": 4,
    "expire": 2,
    "forget": 2,
    "refresh": 6,
    "checkpoint": 10,
    "checkpoint in vain": 1,
    "restart": 2,
    "crash": 3,
    "crash after checkpoint": 2,
    "purge": 0.5,
    "compact": 0.5,
    "backup": 2,
    "restore": 1,
}
"""Relative frequency of each operation."""


def _check(differences: list[str]) -> None:
    if differences:
        raise AssertionError("\n  ".join(differences))
