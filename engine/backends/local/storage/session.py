"""Sessions: from one opening of a store for writing to the next.

Each opening writes a record with a new token into both environments. An environment restored from
an earlier time carries the token of an earlier session, so it is not accepted as part of the store.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

import msgspec

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.errors import LimitExceeded

SESSION = b"session"
"""Name of the record, in the family META."""

TOKEN_BYTES = 8

_SESSION_KEY = key(Family.META, SESSION)


class Session(msgspec.Struct, frozen=True):
    """The latest session of an environment. The log's is written first, unsettled, and
    settled once the index has it too: a crash in between leaves the index with the `previous` token.
    """

    number: int = 0
    token: str = ""
    previous: str = ""
    is_settled: bool = True

    def fits(self, index: Session) -> bool:
        """Whether a log with this session and an index with that one were written together."""
        return index.token == self.token or (not self.is_settled and index.token == self.previous)


def read_session(txn: ReadTransaction) -> Session:
    """The session that a transaction sees: number 0 in a store of a build without sessions."""
    stored = txn.get(_SESSION_KEY)
    return Session() if stored is None else decode_session(stored)


def decode_session(stored: memoryview) -> Session:
    """A session as it is stored."""
    return msgspec.msgpack.decode(stored, type=Session)


def write_session(txn: Writable, session: Session) -> None:
    """Replaces the session of an environment."""
    txn.put(_SESSION_KEY, msgspec.msgpack.encode(session))


def first_session() -> Session:
    """The first session, in which a store is created."""
    return Session(1, secrets.token_hex(TOKEN_BYTES))


def begin_session(log: Environment, index: Environment) -> None:
    """Writes a new session into both environments. A crash at any moment leaves a consistent pair.

    A full store stays in the previous session, because it must at least open for reading.
    """
    with log.reading() as log_txn, index.reading() as index_txn:
        newest, written = read_session(log_txn), read_session(index_txn)
    session = Session(newest.number + 1, secrets.token_hex(TOKEN_BYTES), written.token, is_settled=False)
    with suppress(LimitExceeded):
        _write(log, session)
        session = msgspec.structs.replace(session, is_settled=True)
        _write(index, session)
        _write(log, session)


def _write(environment: Environment, session: Session) -> None:
    with environment.writing() as txn:
        write_session(txn, session)
