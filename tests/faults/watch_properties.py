"""Watches an audience through kills, restores and broken connections, and checks what a watch promises.

    python -m tests.faults.watch_properties --changes 1000000 --kills 30 --restores 5 --seed 7

The properties have the names that etcd and Kubernetes use. *Ordered*: sequence numbers and instants never go
back. *Unique*: no change comes twice. *Atomic*: at every mark the fold is a state that the audience had, the
one after some batch of writes. *Reliable*: no change is left out, and the last fold is the membership.
*Resumable*: after a broken connection or a kill a watch goes on right after its cursor; a cursor from before
a restore is refused, and a snapshot follows. *Bookmarkable*: no change after a progress mark is of an earlier
instant, and marks never go back.

Some watchers follow one audience, others two in one stream, which resumes at a position. What came after the
position comes again there, and nothing else does.

The seed chooses the writes, the kills and where connections break, but not where exactly a process ends.
"""

from __future__ import annotations

import argparse
import functools
import operator
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import xxhash

from engine.backends.base import upkeep_of
from engine.backends.local.offline import restore
from engine.backends.registry import open_backend
from milepost import Client, make_user_update
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import attribute
from milepost.errors import Cancelled, MilepostError, OutOfRange, from_watch_end
from milepost.outputs import WatchOutput
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    MembershipSnapshot,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
    WatchEnd,
)

PROPERTIES = ("ordered", "unique", "atomic", "reliable", "resumable", "bookmarkable")
ACCOUNT_ID = "watching"
TARGETS = ("tiers/gold", "tiers/silver")
"""Everybody is in one of them, or was never written."""
FLAGS = ("--log-level", "error", "--refresh-interval-ms", "20")
WATCHERS = 3
"""Of the first target."""
WATCHERS_TOGETHER = 2
"""Of both, each in one stream."""
BATCH_USERS_MAX = 500
USERS_A_BATCH = 40
"""The users are as many times those of a batch, so that a user moves again once its change has been seen."""
BACKLOG_BATCHES = 8
BREAK_ONE_IN = 20_000
"""A connection breaks after one update in this many."""
MARKS = timedelta(seconds=0.1)
STALLED_S = 120.0
RETRY_S = 0.05
FAULTS_MAX = 20
SEED_BITS = 32


class PropertyBroken(Exception):
    """A watch did not keep what it promises; the message has details."""


class States:
    """The states that the writes lead to: after each batch, a digest of the members."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests = [0]
        self._numbers = {0: 0}

    @property
    def last(self) -> int:
        """The number of batches."""
        return len(self._digests) - 1

    def add(self, digest: int) -> None:
        """Notes the state after the next batch, before that is sent."""
        with self._lock:
            self._digests.append(digest)
            self._numbers[digest] = len(self._digests) - 1

    def back_to(self, number: int) -> None:
        """Forgets what came after a batch: a store of then was restored."""
        with self._lock:
            del self._digests[number + 1 :]
            self._numbers = {digest: at for at, digest in enumerate(self._digests)}

    def find(self, digest: int) -> int | None:
        """The batch after which the audience had these members; None: it never had."""
        with self._lock:
            return self._numbers.get(digest)


class Fold:
    """Folds what a watch says of one audience, and checks each update."""

    def __init__(self, name: str, states: States) -> None:
        self.name = name
        self.faults: list[str] = []
        self.checked: Counter[str] = Counter()
        self.members: set[str] = set()
        self.state = 0
        """The batch that the last mark was of."""
        self.changes = 0
        self.epoch = ""
        self.is_resumed = False
        self._states = states
        self._digest = 0
        self._last = 0
        self._as_of = 0
        self._marked = 0
        self._collecting: set[str] | None = None

    def is_repeated(self, update: object, epoch: str) -> bool:
        """Whether the update is a change that was folded already."""
        is_known = self._collecting is None and epoch == self.epoch
        return is_known and isinstance(update, MembershipChange) and update.sequence <= self._last

    def take(self, update: object, epoch: str) -> None:
        """Takes the next update."""
        match update:
            case SnapshotBegin():
                self._collecting, self._digest = set(), 0
                self._last, self.state = update.cursor, 0
                if epoch != self.epoch:
                    self._as_of = self._marked = 0
            case MembershipSnapshot():
                for user in update.user_ids:
                    self._apply(user, entered=True)
            case MembershipChange():
                self._change(update)
            case SnapshotEnd():
                assert self._collecting is not None
                self.members, self._collecting = self._collecting, None
                self._check("reliable", update.cursor == self._last, f"{update.cursor} ends {self._last}")
                self._state("the end of a snapshot")
            case ProgressMark():
                as_of = update.as_of.ToMicroseconds()
                self._check("bookmarkable", as_of >= self._marked, f"mark {as_of} after {self._marked}")
                self._check("bookmarkable", update.cursor == self._last, f"mark at {update.cursor}")
                self._marked = as_of
                self._state("a progress mark")
        self.epoch = epoch

    def _change(self, change: MembershipChange) -> None:
        as_of = change.as_of.ToMicroseconds()
        if self.is_resumed:
            found = f"{change.sequence} after a break at {self._last}"
            self._check("resumable", change.sequence == self._last + 1, found)
            self.is_resumed = False
        self._check("unique", change.sequence > self._last, f"{change.sequence} after {self._last}")
        self._check("reliable", change.sequence <= self._last + 1, f"{change.sequence} after {self._last}")
        self._check("ordered", as_of >= self._as_of, f"instant {as_of} after {self._as_of}")
        self._check("bookmarkable", as_of >= self._marked, f"{as_of} after the mark {self._marked}")
        self._last, self._as_of = change.sequence, as_of
        self._apply(change.user_id, entered=change.entered)
        self.changes += 1
        if change.last_of_instant:
            self._state("the last change of an instant")

    def _apply(self, user: str, *, entered: bool) -> None:
        members = self.members if self._collecting is None else self._collecting
        if entered != (user in members):
            (members.add if entered else members.discard)(user)
            self._digest ^= digest_of(user)

    def _state(self, where: str) -> None:
        number = self._states.find(self._digest)
        is_later = number is not None and number >= self.state
        self._check("atomic", is_later, f"{where} at {self._last} is of batch {number} after {self.state}")
        self.state = number or 0

    def _check(self, name: str, holds: bool, fault: str) -> None:
        self.checked[name] += 1
        if not holds and len(self.faults) < FAULTS_MAX:
            self.faults.append(f"{self.name} is not {name}: {fault}")


class Follower:
    """Watches the first target, over connections that break."""

    def __init__(self, number: int, states: Sequence[States], seed: str) -> None:
        self.target = ""
        """The address of the service; "" while there is none."""
        self.is_over = False
        self.is_watching = False
        self.folds = {TARGETS[0]: Fold(f"watcher {number}", states[0])}
        self._cursor: int | None = None
        self._source = random.Random(f"{seed} {number}")

    def run(self) -> None:
        """Watches until it is over, whatever becomes of services."""
        while not self.is_over:
            if not self.target:
                time.sleep(RETRY_S)
                continue
            try:
                with Client(self.target, account=ACCOUNT_ID) as client:
                    self.is_watching = True
                    self._watch(client)
            except OutOfRange:
                self._fold.checked["resumable"] += 1
                self._cursor, self._fold.epoch = None, ""
            except (Cancelled, MilepostError, ValueError):
                time.sleep(RETRY_S)
            finally:
                self.is_watching = False

    @property
    def _fold(self) -> Fold:
        return self.folds[TARGETS[0]]

    def _watch(self, client: Client) -> None:
        fold = self._fold
        watch = client.watch(
            TARGETS[0], cursor=self._cursor, epoch=fold.epoch, progress_interval=MARKS, attempts_max=0
        )
        fold.is_resumed = self._cursor is not None
        try:
            for update in watch:
                fold.take(update, watch.epoch)
                self._cursor = watch.cursor
                if self._ends():
                    return
        finally:
            watch.close()

    def _ends(self) -> bool:
        return self.is_over or self._source.randrange(BREAK_ONE_IN) == 0


class FollowerTogether(Follower):
    """Watches both targets in one stream."""

    def __init__(self, number: int, states: Sequence[States], seed: str) -> None:
        super().__init__(number, states, seed)
        self.folds = {
            target: Fold(f"watcher {number} of {target}", each)
            for target, each in zip(TARGETS, states, strict=True)
        }
        self._position = ""

    def _watch(self, client: Client) -> None:
        watch = client.watch_together(
            TARGETS, position=self._position, progress_interval=MARKS, attempts_max=0
        )
        for fold in self.folds.values():
            fold.is_resumed = bool(self._position)
        try:
            for target, _, epoch, update in watch:
                fold = self.folds[target]
                if isinstance(update, WatchEnd):
                    raise from_watch_end(update)
                if isinstance(update, SnapshotBegin):
                    # Another epoch is no error here: a snapshot follows.
                    fold.checked["resumable"] += epoch != fold.epoch != ""
                    fold.is_resumed = False
                if not fold.is_repeated(update, epoch):
                    fold.take(update, epoch)
                self._position = watch.position
                if self._ends():
                    return
        finally:
            watch.close()


def digest_of(user: str) -> int:
    """A hash, so that a set of users is told by the exclusive or of all of them."""
    return xxhash.xxh3_64_intdigest(user.encode())


class Campaign:
    """Writes until watchers saw `changes` changes, with kills and restores in between."""

    def __init__(self, directory: Path, *, changes: int, kills: int, restores: int, seed: str) -> None:
        self._directory = directory
        self._source = random.Random(seed)
        self._changes = changes
        stops = ["kill"] * (kills - 1) + ["restore"] * restores
        self._source.shuffle(stops)
        # A backup is made at the first one.
        stops.insert(0, "kill")
        self._stops = dict(
            zip(sorted(self._source.sample(range(1, changes), len(stops))), stops, strict=True)
        )
        self._batch = min(BATCH_USERS_MAX, max(10, changes // 400))
        self._users = [f"user-{number}" for number in range(USERS_A_BATCH * self._batch)]
        self._members: tuple[set[str], ...] = (set(), set())
        self._digests = [0, 0]
        """Of the members of each target."""
        self._at = 0
        self._states = (States(), States())
        self._backup: tuple[Path, int, tuple[set[str], ...]] | None = None
        self._generation = 0
        self.followers = [
            (Follower if number < WATCHERS else FollowerTogether)(number, self._states, seed)
            for number in range(WATCHERS + WATCHERS_TOGETHER)
        ]
        self.folds = [fold for each in self.followers for fold in each.folds.values()]

    def run(self) -> Counter[str]:
        """How often each property was checked. Raises PropertyBroken."""
        threads = [threading.Thread(target=each.run, daemon=True) for each in self.followers]
        for thread in threads:
            thread.start()
        try:
            while self._serve():
                pass
        finally:
            for each in self.followers:
                each.is_over = True
            for thread in threads:
                thread.join(STALLED_S)
        return sum((each.checked for each in self.folds), Counter())

    @property
    def _store(self) -> Path:
        return self._directory / f"store-{self._generation}"

    @property
    def _seen(self) -> int:
        return max(each.changes for each in self.folds)

    def _serve(self) -> bool:
        """One service, until it is stopped. False: all changes were seen."""
        with ServiceProcess(self._store, flags=FLAGS) as service:
            with Client(service.target, account=ACCOUNT_ID) as client:
                if not self._states[0].last:
                    _prepare(client)
                for each in self.followers:
                    each.target = service.target
                while self._seen < (min(self._stops) if self._stops else self._changes):
                    self._write(client)
                    self._wait_for(self._states[0].last - BACKLOG_BATCHES)
                if not self._stops:
                    self._wait_for(self._states[0].last)
                    self._compare(client)
                    return False
            for each in self.followers:
                each.target = ""
            service.kill()
        self._stop(self._stops.pop(min(self._stops)))
        return True

    def _write(self, client: Client) -> None:
        users = [self._users[(self._at + index) % len(self._users)] for index in range(self._batch)]
        self._at += self._batch
        gold = self._members[0]
        for user in users:
            is_gold = user not in gold
            for index, members in enumerate(self._members):
                if (user in members) is not (is_gold is (index == 0)):
                    members.symmetric_difference_update({user})
                    self._digests[index] ^= digest_of(user)
        for states, digest in zip(self._states, self._digests, strict=True):
            states.add(digest)
        tiers = {user: "gold" if user in gold else "silver" for user in users}
        client.upsert_users(
            [make_user_update(user, {"tier": tier}) for user, tier in tiers.items()], input="shop/web"
        )

    def _stop(self, how: str) -> None:
        """What happens between two services."""
        if how == "restore" and self._backup is not None:
            backup, number, members = self._backup
            self._generation += 1
            restore(backup, self._store)
            self._go_back_to(number)
            self._members = tuple(map(set, members))
            self._digests = [functools.reduce(operator.xor, map(digest_of, each), 0) for each in members]
        elif self._backup is None or self._source.randrange(3) == 0:
            backup = self._directory / f"backup-{len(self._stops)}"
            store = open_backend(f"local:{self._store}")
            upkeep_of(store).snapshot(backup)
            store.close()
            self._backup = backup, self._states[0].last, tuple(map(set, self._members))

    def _go_back_to(self, number: int) -> None:
        """Forgets what came after a batch, also what watchers know of it: they are to see a mark of the
        restored store before they count as having caught up.
        """
        deadline = time.monotonic() + STALLED_S
        while any(each.is_watching for each in self.followers):
            # What the last service sent is still being read.
            if time.monotonic() > deadline:
                raise PropertyBroken(f"a watch of a killed service has not ended for {STALLED_S:g} s")
            time.sleep(RETRY_S)
        for states in self._states:
            states.back_to(number)
        for fold in self.folds:
            fold.state = 0

    def _wait_for(self, number: int) -> None:
        """Waits until every watcher has a mark of that batch or a later one."""
        deadline = time.monotonic() + STALLED_S
        while any(each.state < number for each in self.folds):
            self._raise_faults()
            if time.monotonic() > deadline:
                states = [each.state for each in self.folds]
                raise PropertyBroken(f"watchers are at {states}, not at {number}, for {STALLED_S:g} s")
            time.sleep(RETRY_S / 5)
        self._raise_faults()

    def _raise_faults(self) -> None:
        faults = [fault for each in self.folds for fault in each.faults]
        if faults:
            raise PropertyBroken("\n  ".join(["", *faults]))

    def _compare(self, client: Client) -> None:
        for target, expected in zip(TARGETS, self._members, strict=True):
            members = set(client.export_members(target))
            for fold in (each.folds[target] for each in self.followers if target in each.folds):
                fold.checked["reliable"] += 1
                if not (fold.members == members == expected):
                    raise PropertyBroken(f"{fold.name} has {len(fold.members)} of {len(members)} members")


def _prepare(client: Client) -> None:
    client.ensure_account()
    client.ensure_input("shop", "web")
    client.ensure_journey("tiers")
    output = client.ensure_output("consumers", WatchOutput())
    for target in TARGETS:
        tier = target.rpartition("/")[2]
        client.ensure_milestone("tiers", tier, criteria=attribute("tier").equals(tier))
        client.ensure_connection(tier, target=target, output=output.name)
        client.activate_connection(tier)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(
        prog="tests.faults.watch_properties", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--changes", type=int, default=1_000_000, help="how many (default %(default)s)")
    parser.add_argument("--kills", type=int, default=30, help="how many (default %(default)s)")
    parser.add_argument("--restores", type=int, default=5, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    print(f"{options.changes} changes, {options.kills} kills, {options.restores} restores, --seed {seed}")
    directory = Path(tempfile.mkdtemp(prefix="milepost-watching-"))
    campaign = Campaign(
        directory, changes=options.changes, kills=options.kills, restores=options.restores, seed=str(seed)
    )
    began = time.monotonic()
    try:
        checked = campaign.run()
    except PropertyBroken as broken:
        print(f"--seed {seed}: {broken}; the store is in {directory}")
        return 1
    shutil.rmtree(directory)
    changes = sum(each.changes for each in campaign.folds)
    watchers = f"{WATCHERS} watchers of one audience, {WATCHERS_TOGETHER} of two"
    print(f"{changes} changes to {watchers}, in {time.monotonic() - began:.0f} s")
    print(f"{'property':14} {'checked':>12} broken")
    for name in PROPERTIES:
        print(f"{name:14} {checked[name]:>12,} {0:>6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
