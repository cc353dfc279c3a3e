"""Rounds of kills on one store; see `kill_rounds`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from milepost import Client
from milepost.cli.service_process import ServiceDied, ServiceProcess
from milepost.errors import MilepostError
from milepost.v1.admin_service_pb2 import GetServerInfoRequest, GetServerInfoResponse
from tests.faults.kill_ledger import EventLedger, Faults, Slots, UserLedger, slots_in
from tests.faults.kill_questions import Questions, prepare
from tests.faults.kill_trios import TrioLedger, TrioWriter
from tests.faults.kill_writers import (
    EventWriter,
    Revision,
    StreamWriter,
    UnaryWriter,
    UserWriter,
    Writer,
)

ACCOUNT_ID = "kill"
STREAMS = 3
WRITING_S = (0.01, 0.6)
STOPPING_S_MAX = 0.15
STARTING_S = 0.5
"""Assumed duration of the first start."""
WHOLE_ROUNDS = 25
FAULTS_SHOWN_MAX = 20
FLAGS = ("--log-level", "error", "--refresh-interval-ms", "50")
CHECKPOINTS: tuple[tuple[str, ...], ...] = (
    (),
    ("--checkpoint-records", "1", "--checkpoint-s", "0.01"),
    ("--checkpoint-records", "300", "--checkpoint-s", "0.05"),
    ("--checkpoint-s", "0.3"),
)
"""Checkpoint settings: rarely, constantly, and sometimes."""
KILLED_STARTING_PERCENT = 15
KILLED, KILLED_CHECKPOINTING = "killed", "killed after a commit to the index"
KILLED_STOPPING, STOPPED = "killed while stopping", "stopped"
ENDS = (KILLED,) * 5 + (KILLED_CHECKPOINTING,) * 3 + (KILLED_STOPPING, STOPPED)
COMMIT_S_MAX = 0.5
COMMIT_POLL_S = 0.0002
COMMIT_BYTES = 2 * 4_096
"""The first two pages of an LMDB file name its last commits: they change when a transaction is complete."""


class RoundFailed(Exception):
    """The service lost acknowledged data; the message has details."""


@dataclass
class Tally:
    """Figures of some rounds. Only first acknowledgements count as events and updates."""

    rounds: int = 0
    events: int = 0
    updates: int = 0
    trios: int = 0
    """Times that a user was made an alias, another alias was refused, and a user was erased."""
    unanswered: int = 0
    """Batches without an answer when the service was gone, and those of them found in the store."""
    unanswered_kept: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Adds the figures of other rounds."""
        self.rounds += other.rounds
        self.events += other.events
        self.updates += other.updates
        self.trios += other.trios
        self.unanswered += other.unanswered
        self.unanswered_kept += other.unanswered_kept
        self.ends += other.ends

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {how}" for how, count in sorted(self.ends.items()))
        return (
            f"{self.events} events, {self.updates} updates, {self.trios} aliases and erasures acknowledged;"
            f" {self.unanswered} batches unanswered, {self.unanswered_kept} of them kept; {ends}"
        )


class KillRounds:
    """Plays rounds on the store in a directory. `tally` tells what happened so far."""

    def __init__(self, directory: Path, seed: str) -> None:
        self.tally = Tally()
        self._directory = directory
        self._source = random.Random(seed)
        self._audiences: list[str] = []
        self._starting_s = STARTING_S
        sources = [random.Random(f"{seed} {number}") for number in range(STREAMS + 3)]
        self._event_writers: list[EventWriter] = [
            *(StreamWriter(number, sources[number]) for number in range(STREAMS)),
            UnaryWriter(STREAMS, sources[STREAMS]),
        ]
        self._user_writer = UserWriter(STREAMS + 1, sources[STREAMS + 1])
        self._trio_writer = TrioWriter(STREAMS + 2, sources[STREAMS + 2])

    def round(self) -> None:
        """Starts the service, compares its data, and kills it while clients write. Raises RoundFailed."""
        with self._started() as service, Client(service.target, account=ACCOUNT_ID) as client:
            self._check(client, whole=self.tally.rounds % WHOLE_ROUNDS == 0)
            self.tally.rounds += 1
            writers: list[Writer] = [*self._event_writers, self._user_writer, self._trio_writer]
            threads = [
                threading.Thread(target=writer.write, args=(client, self.tally.rounds)) for writer in writers
            ]
            for thread in threads:
                thread.start()
            time.sleep(self._source.uniform(*WRITING_S))
            self._end(service)
            for thread in threads:
                thread.join()
        self.tally.events = sum(ledger.acknowledged_events for ledger in self._ledgers)
        self.tally.updates = self._updates.acknowledged_updates
        self.tally.trios = self._trios.done
        _raise_if_any([fault for writer in writers for fault in writer.faults])

    def finish(self) -> None:
        """Starts the service a last time and compares everything. Raises RoundFailed."""
        with self._started() as service, Client(service.target, account=ACCOUNT_ID) as client:
            self._check(client, whole=True)

    @property
    def _ledgers(self) -> list[EventLedger]:
        return [writer.ledger for writer in self._event_writers]

    @property
    def _updates(self) -> UserLedger:
        return self._user_writer.ledger

    @property
    def _trios(self) -> TrioLedger:
        return self._trio_writer.ledger

    # --- the service ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _started(self) -> Iterator[ServiceProcess]:
        """Starts the service; sometimes kills it during the start and starts it again."""
        flags = (*FLAGS, *self._source.choice(CHECKPOINTS))
        while self._source.randrange(100) < KILLED_STARTING_PERCENT:
            self.tally.ends["killed while starting"] += 1
            self._start_and_kill(flags, self._source.uniform(0.3, 1.1) * self._starting_s)
        began = time.monotonic()
        service = ServiceProcess(self._directory, flags=flags)
        try:
            service.start()
        except ServiceDied as failure:
            raise RoundFailed(str(failure)) from failure
        self._starting_s = time.monotonic() - began
        try:
            yield service
        finally:
            service.stop()

    def _start_and_kill(self, flags: tuple[str, ...], after_s: float) -> None:
        service = ServiceProcess(self._directory, flags=flags)
        killer = threading.Timer(after_s, service.kill)
        killer.start()
        try:
            with contextlib.suppress(ServiceDied):
                service.start()
        finally:
            killer.join()
            service.stop()

    def _end(self, service: ServiceProcess) -> None:
        how = self._source.choice(ENDS)
        self.tally.ends[how] += 1
        if how == STOPPED:
            service.stop()
            return
        if how == KILLED_CHECKPOINTING:
            self._wait_for_commit()
        elif how == KILLED_STOPPING:
            os.kill(service.pid, signal.SIGTERM)
            time.sleep(self._source.uniform(0.0, STOPPING_S_MAX))
        service.kill()

    def _wait_for_commit(self) -> None:
        """Waits until something is committed to the index: a checkpoint then has yet to trim the log."""
        deadline = time.monotonic() + COMMIT_S_MAX
        with (self._directory / "index" / "data.mdb").open("rb", buffering=0) as file:
            before = file.read(COMMIT_BYTES)
            while time.monotonic() < deadline and os.pread(file.fileno(), COMMIT_BYTES, 0) == before:
                time.sleep(COMMIT_POLL_S)

    # --- comparing ------------------------------------------------------------------------------------------

    def _check(self, client: Client, *, whole: bool) -> None:
        if not self._audiences:
            self._audiences = prepare(client)
        try:
            info = client.admin.GetServerInfo(GetServerInfoRequest())
            acknowledged = max(
                self._updates.revision, self._trios.revision, *(ledger.revision for ledger in self._ledgers)
            )
            # The token of a write that an earlier process acknowledged.
            token = acknowledged.token if isinstance(acknowledged, Revision) else ""
            questions = Questions(client, self._audiences, token)
            faults = self._of_touched_users(questions)
            faults += self._of_everything(questions) if whole else []
            faults += self._of_figures(info, client, acknowledged)
        except MilepostError as error:
            raise RoundFailed(f"a question was answered {type(error).__name__}: {error}") from error
        _raise_if_any(faults)

    def _of_touched_users(self, questions: Questions) -> Faults:
        """Settles the open batches of the last round."""
        touched = sorted(self._trios.touched().union(*(ledger.touched() for ledger in self._ledgers)))
        slots, doubled = questions.slots(touched)
        faults = [f"{user_id} has an event twice" for user_id in doubled]
        for ledger in self._ledgers:
            faults += ledger.settle(slots)
        faults += self._trios.settle(slots)
        updated = questions.attributes(self._updates.touched())
        faults += self._updates.settle(updated)
        kept = [batch.in_store for ledger in self._ledgers for batch in ledger.lost]
        kept += [batch.in_store for batch in self._updates.lost]
        self.tally.unanswered += len(kept)
        self.tally.unanswered_kept += sum(kept)
        return faults

    def _of_everything(self, questions: Questions) -> Faults:
        present = self._present()
        slots, doubled = questions.all_slots()
        faults = [f"{user_id} has an event twice" for user_id in doubled]
        faults += [
            f"{user_id} has slots {slots_in(slots.get(user_id, 0))}, not {slots_in(present.get(user_id, 0))}"
            for user_id in sorted(present.keys() | slots.keys())
            if slots.get(user_id, 0) != present.get(user_id, 0)
        ]
        updated_users = {user_id for user_id, _ in self._updates.present}
        if questions.attributes(updated_users) != self._updates.values(updated_users):
            faults.append("attributes of users that the last round left alone have changed")
        return faults

    def _present(self) -> dict[str, Slots]:
        present = self._trios.present
        for ledger in self._ledgers:
            present |= ledger.present
        return present

    def _of_figures(self, info: GetServerInfoResponse, client: Client, acknowledged: int) -> Faults:
        """The server's own figures, of the time after its start. Its events include those of erased users
        until they are gone from the disk, so the catalog is asked.
        """
        present = self._present()
        expected = (
            sum(slots.bit_count() for slots in present.values()),
            len(present) + len({user_id for user_id, _ in self._updates.present}),
        )
        found = (sum(name.events for name in client.list_event_names()), info.users)
        faults = []
        if found != expected:
            faults.append(f"events and users are {found}, not {expected}")
        if Revision.of(info.revision) < acknowledged:
            faults.append(f"the revision is {info.revision}, but {acknowledged:x} was answered")
        return faults


def _raise_if_any(faults: Faults) -> None:
    if faults:
        left = len(faults) - FAULTS_SHOWN_MAX
        more = [f"and {left} more"] if left > 0 else []
        raise RoundFailed("\n  ".join(["", *faults[:FAULTS_SHOWN_MAX], *more]))
