"""Positions: the progress of the log and of the index, as each records it.

The index records the position it reflects in the transaction of each checkpoint. The log records the position
up to which it was trimmed, so even an empty log says how far it reached.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.clock import Stamp
from engine.values import Micros

CHECKPOINTED, TRIMMED, INSTANT = b"folded", b"trimmed", b"instant"
"""Names of the records in the family META, as stored: older versions called the first one `folded`."""

_CHECKPOINTED_KEY, _TRIMMED_KEY = key(Family.META, CHECKPOINTED), key(Family.META, TRIMMED)
_INSTANT_KEY = key(Family.META, INSTANT)


class CheckpointedState(msgspec.Struct, frozen=True):
    """The checkpointed state: log position, the arrival sequence at that position, when the entry arrived,
    and the time that ages are measured from (None in older stores: the arrival).
    """

    position: int = 0
    sequence: int = 0
    arrival: Micros = 0
    settled: Micros | None = None

    @property
    def stamp(self) -> Stamp:
        """Arrival of the entry at the position."""
        return Stamp(self.arrival, self.arrival if self.settled is None else self.settled)


class LogReach(NamedTuple):
    """The positions in the log: above `trimmed`, up to and including `newest`. None when the log does not
    say: it is empty and was written by a build that recorded nothing.
    """

    trimmed: int | None
    newest: int | None


def read_checkpointed(txn: ReadTransaction) -> CheckpointedState:
    """The checkpointed state of the index that a transaction sees."""
    stored = txn.get(_CHECKPOINTED_KEY)
    return CheckpointedState() if stored is None else msgspec.msgpack.decode(stored, type=CheckpointedState)


def write_checkpointed(txn: Writable, checkpointed: CheckpointedState) -> None:
    """Records the checkpointed state, in the transaction of the checkpoint."""
    txn.put(_CHECKPOINTED_KEY, msgspec.msgpack.encode(checkpointed))


def read_instant(txn: ReadTransaction) -> Micros:
    """The latest recorded instant that memberships were brought to; 0 when there is none."""
    stored = txn.get(_INSTANT_KEY)
    return 0 if stored is None else decode_instant(stored)


def write_instant(txn: Writable, instant: Micros) -> None:
    """Records the instant that memberships were brought to, in the index."""
    txn.put(_INSTANT_KEY, msgspec.msgpack.encode(instant))


def decode_instant(stored: memoryview) -> Micros:
    """The inverse of what `write_instant` stores."""
    return msgspec.msgpack.decode(stored, type=Micros)


def write_trimmed(txn: Writable, through: int) -> None:
    """Records that entries up to a position are deleted, in the transaction that deletes them."""
    txn.put(_TRIMMED_KEY, msgspec.msgpack.encode(through))


def decode_trimmed(stored: memoryview) -> int:
    """The inverse of what `write_trimmed` stores."""
    return msgspec.msgpack.decode(stored, type=int)


def read_reach(txn: ReadTransaction) -> LogReach:
    """The positions in the log that a transaction sees, from its keys."""
    recorded = txn.get(_TRIMMED_KEY)
    trimmed = None if recorded is None else decode_trimmed(recorded)
    first = next(txn.keys(key(Family.LOG)), None)
    last = txn.last_key(key(Family.LOG))
    if first is None or last is None:
        return LogReach(trimmed, trimmed)
    return LogReach(_position(first) - 1, _position(last))


def _position(stored: bytes) -> int:
    return int.from_bytes(stored[1:], "big")
