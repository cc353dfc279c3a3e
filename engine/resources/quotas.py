"""The limits on what an account has, and how much it has.

They belong to operators (`Account.quotas`). A commit that would bring an account over one is refused as a
whole; one that adds nothing never is, also in an account that is over a limit that was lowered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from engine.errors import LimitExceeded
from engine.limits import ACCOUNTS_MAX, DEFAULT_QUOTAS, JOURNEY_BYTES_MAX, QUOTA_FIELDS, Quotas
from engine.resources.records import (
    Account,
    Audience,
    Connection,
    Input,
    Journey,
    Milestone,
    Output,
    Record,
    Workspace,
    account_of,
    journey_of,
)

COUNTED: Mapping[type[Record], str] = {
    Workspace: "workspaces",
    Input: "inputs",
    Journey: "journeys",
    Milestone: "milestones",
    Output: "outputs",
    Connection: "connections",
}
"""The kinds of record that an account has a limited number of."""
MEASURED: frozenset[type[Record]] = frozenset({Workspace, Input, Journey, Milestone, Audience, Output})
"""The kinds whose size is limited. That of the others follows from their number."""


def without_defaults(quotas: Quotas) -> Quotas:
    """The quotas as they are stored: those that differ from the defaults, which may change."""
    given = {name: getattr(quotas, name) for name in QUOTA_FIELDS}
    return Quotas(**{name: value for name, value in given.items() if value != getattr(DEFAULT_QUOTAS, name)})


class Written(NamedTuple):
    """A record that a commit writes or deletes: its size before and after, None = there is none.

    The kind None stands for the answer to a create with a request id, which is kept for some days.
    """

    kind: type[Record] | None
    name: str
    before: int | None
    after: int | None


class Usage:
    """What each account has."""

    def __init__(self) -> None:
        self._accounts = 0
        self._counts: Counter[tuple[str, type[Record]]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._journey_bytes: Counter[str] = Counter()
        """Of the milestones of each journey."""

    def check(self, written: Iterator[Written], quotas_of: Callable[[str], Quotas]) -> Usage:
        """What a commit adds; give it to `add` once it is committed. Raises LimitExceeded when it adds to
        what has reached its limit.
        """
        added = Usage()
        for each in written:
            added._count(each)
        if added._accounts > 0 and self._accounts + added._accounts > ACCOUNTS_MAX:
            raise _exceeded("the store", "accounts", "accounts_max", self._accounts, ACCOUNTS_MAX)
        for (account, kind), count in added._counts.items():
            what = COUNTED[kind]
            limit = getattr(quotas_of(account), f"{what}_max")
            if count > 0 and self._counts[account, kind] + count > limit:
                raise _exceeded(account, what, f"quotas.{what}_max", self._counts[account, kind], limit)
        for account, size in added._bytes.items():
            limit = quotas_of(account).record_bytes_max
            if size > 0 and self._bytes[account] + size > limit:
                what = "bytes of records"
                raise _exceeded(account, what, "quotas.record_bytes_max", self._bytes[account], limit)
        for journey, size in added._journey_bytes.items():
            if size > 0 and self._journey_bytes[journey] + size > JOURNEY_BYTES_MAX:
                raise _journey_outgrown(journey, self._journey_bytes[journey] + size)
        return added

    def add(self, added: Usage) -> None:
        """Takes over what a commit has added."""
        self._accounts += added._accounts
        for counts, more in (
            (self._counts, added._counts),
            (self._bytes, added._bytes),
            (self._journey_bytes, added._journey_bytes),
        ):
            _add(counts, more)

    def load(self, kind: type[Record] | None, name: str, size: int) -> None:
        """Counts a stored record."""
        self._count(Written(kind, name, None, size))

    def _count(self, written: Written) -> None:
        kind, name, before, after = written
        more = (after is not None) - (before is not None)
        if kind is Account:
            self._accounts += more
        if kind is not None and kind in COUNTED:
            self._counts[account_of(name), kind] += more
        if kind is None or kind in MEASURED:
            self._bytes[account_of(name)] += (after or 0) - (before or 0)
        if kind is Milestone:
            self._journey_bytes[journey_of(name)] += (after or 0) - (before or 0)


def _add(counts: Counter[Any], more: Mapping[Any, int]) -> None:
    for key, count in more.items():
        counts[key] += count
        if not counts[key]:
            del counts[key]


def _journey_outgrown(journey: str, size: int) -> LimitExceeded:
    return LimitExceeded(
        f"the milestones of {journey} would have {size:,} bytes; at most {JOURNEY_BYTES_MAX:,} are"
        " allowed. Split the journey, or keep long lists of values as attributes of users",
        metadata={"limit": str(JOURNEY_BYTES_MAX), "count": str(size), "resource": journey},
    )


def _exceeded(owner: str, what: str, quota: str, count: int, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"{owner} has {count} of {limit} {what}: delete some, or ask an operator to raise {quota}",
        metadata={"quota": quota, "limit": str(limit), "count": str(count)},
    )
