"""The keys of forgotten accounts, inputs and attributes, until a checkpoint has deleted them.

Their numbers are not given again, so no later data can meet them. Event ids and answers to requests are not
listed: they hold digests only, and expire by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Space
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.unwritten import Unwritten

OF_INPUT = (Family.BELONGS, Family.SEEN, Family.EVENT_TABLE, Family.EVENT_SLICE, Family.EVENT_COLUMN)
"""Families whose keys begin with an account and an input."""

OF_FIELD = (Family.FIELD_PRESENT, Family.FIELD_VALUE, Family.FIELD_TEXT, Family.FIELD_COLUMN)
"""Families whose keys begin with an account and a field."""

OF_ACCOUNT = (
    *OF_INPUT,
    *OF_FIELD,
    Family.USER_RUN,
    Family.USER_FILTER,
    Family.USER_BLOCK,
    Family.ALIAS_OF,
    Family.ALIASES,
    Family.USER_COUNT,
    Family.USER_IDS,
    Family.USER_PARTITIONS,
    Family.ALIVE,
    Family.PROFILE,
    Family.PROFILED,
    Family.WRITE_TIMES,
    Family.EVENT_CHECKPOINT,
)
"""Families whose keys begin with an account."""


class ForgottenKeys(Unwritten[bytes, None]):
    """Prefixes of the keys to be deleted."""

    def add(self, prefixes: Iterable[bytes]) -> None:
        """Adds prefixes."""
        self.fresh.update(dict.fromkeys(prefixes))

    def write(self, txn: Writable) -> None:
        """Deletes the keys, after everything else of the checkpoint was written."""
        for prefix in self.writing:
            txn.delete_prefix(prefix)


def keys_of_account(account: int) -> Iterator[bytes]:
    """The prefixes of an account's keys."""
    for family in OF_ACCOUNT:
        yield key(family, account)
    for space in Space:
        if space is not Space.ACCOUNT:
            yield key(Family.NAME, space, account)


def keys_of_input(account: int, number: int) -> Iterator[bytes]:
    """The prefixes of an input's keys."""
    for family in OF_INPUT:
        yield key(family, account, number)


def keys_of_field(account: int, number: int) -> Iterator[bytes]:
    """The prefixes of a field's keys."""
    for family in OF_FIELD:
        yield key(family, account, number)
