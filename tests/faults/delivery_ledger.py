"""What arrived at a receiver, checked as it arrives: nothing lost, in order, repeated within one batch."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping
from typing import Any

import xxhash

ENTERED = "milepost.membership.entered"
EXITED = "milepost.membership.exited"
FAULTS_MAX = 20


class DeliveryLedger:
    """The changes of one audience that a receiver got. Safe to call from several threads.

    Sequences of an audience count from 1 without a gap, so they show what is missing. `in_line` for receivers
    that keep the order of all changes, not only that of each user's.
    """

    def __init__(self, batch_changes: int, *, in_line: bool = True) -> None:
        self.faults: list[str] = []
        self.arrived = 0
        """Different changes."""
        self.repeated = 0
        self.members: set[str] = set()
        self._batch_changes = batch_changes
        self._in_line = in_line
        self._digests = array("Q", [0])
        """By sequence; 0 = has not arrived."""
        self._last_of_user: dict[str, int] = {}
        self._changed = threading.Condition()

    def take(self, event: Mapping[str, Any]) -> None:
        """Notes a CloudEvent, in the order of arrival. Events of other types are ignored."""
        if event["type"] not in (ENTERED, EXITED):
            return
        sequence, user_id = event["data"]["sequence"], event["subject"]
        digest = _digest(event)
        with self._changed:
            if sequence < len(self._digests) and self._digests[sequence]:
                self._take_again(sequence, digest)
            else:
                self._take_new(sequence, digest, user_id, is_entry=event["type"] == ENTERED)
            self._changed.notify_all()

    def fail(self, fault: str) -> None:
        """Notes that something is wrong."""
        with self._changed:
            self._fault(fault)
            self._changed.notify_all()

    def wait_for(self, arrived: int, seconds_max: float) -> bool:
        """Waits until that many different changes arrived, or something is wrong. False: it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self.arrived >= arrived or bool(self.faults), seconds_max)

    @property
    def last(self) -> int:
        """The highest sequence that arrived."""
        return len(self._digests) - 1

    def _take_new(self, sequence: int, digest: int, user_id: str, *, is_entry: bool) -> None:
        if self._in_line and sequence != self.last + 1:
            self._fault(f"{sequence} came after {self.last}")
        self._digests.extend([0] * (sequence + 1 - len(self._digests)))
        self._digests[sequence] = digest
        self.arrived += 1
        before = self._last_of_user.get(user_id, 0)
        if before > sequence:
            self._fault(f"{sequence} of {user_id} came after {before}")
        self._last_of_user[user_id] = sequence
        if is_entry == (user_id in self.members):
            self._fault(f"{sequence}: {user_id} {'entered' if is_entry else 'exited'} twice")
        (self.members.add if is_entry else self.members.discard)(user_id)

    def _take_again(self, sequence: int, digest: int) -> None:
        self.repeated += 1
        if digest != self._digests[sequence]:
            self._fault(f"{sequence} was repeated as another event")
        if sequence <= self.last - self._batch_changes:
            self._fault(f"{sequence} was repeated after {self.last}, more than a batch later")

    def _fault(self, fault: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(fault)


def _digest(event: Mapping[str, Any]) -> int:
    # Never 0, which means that a change has not arrived.
    text = "\0".join((event["source"], event["id"], event["type"], event["subject"]))
    return xxhash.xxh3_64_intdigest(text.encode()) | 1
