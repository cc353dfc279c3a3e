"""What is known of single users, read from the cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.literals import all_of, one_of, one_of_integers
from engine.backends.clickhouse.tables import CONSENT, FACTS, IDENTITY, UNSET
from engine.backends.clickhouse.view import View
from engine.backends.local.account.updates import Item, Shown
from engine.backends.local.storage.name_table import FieldKind
from engine.criteria.model import ConsentState
from engine.values import Kind, Micros, Value, partition_of

Attributes = dict[str, dict[str, tuple[Micros, Value]]]
Identities = dict[str, tuple[Micros, str]]
Consents = dict[tuple[str, str], tuple[Micros, ConsentState]]

USERS_AT_ONCE = 10_000
"""Users that one statement asks about."""


class Fact(NamedTuple):
    """The latest write of one field of a user; None: it is unset."""

    user: str
    place: str
    key: str
    time: Micros
    value: Value | None


class Profiles:
    """Reads the facts of users."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def of(
        self, view: View, user: str, deadline: float | None = None
    ) -> tuple[Attributes, Identities, Consents]:
        """The attributes, identities and consents of a user that has no other id."""
        attributes: Attributes = {}
        identities: Identities = {}
        consents: Consents = {}
        for _, place, key, time, value in self._facts(view, [user], deadline):
            if value is None:
                continue
            if place == IDENTITY:
                identities[key] = time, str(value)
            elif place == CONSENT:
                regulation, _, purpose = key.partition("\0")
                consents[regulation, purpose] = time, ConsentState(str(value))
            else:
                attributes.setdefault(place, {})[key] = time, value
        return attributes, identities, consents

    def shown(self, view: View, users: Collection[str], items: Collection[Item]) -> dict[str, Shown]:
        """The watched values of users; of an attribute in several workspaces the one written last."""
        latest: dict[str, dict[Item, tuple[Micros, str, Value]]] = {user: {} for user in users}
        listed = list(users)
        for start in range(0, len(listed), USERS_AT_ONCE):
            for user, place, key, time, value in self._facts(view, listed[start : start + USERS_AT_ONCE]):
                is_identity = place == IDENTITY
                item: Item = (FieldKind.IDENTITY if is_identity else FieldKind.ATTRIBUTE, key)
                if value is None or place == CONSENT or item not in items:
                    continue
                workspace = "" if is_identity else place
                known = latest[user].get(item)
                # Of equal times the first workspace by name, as in what is delivered.
                if known is None or (time, known[1]) > (known[0], workspace):
                    latest[user][item] = time, workspace, value
        return {user: {item: value for item, (*_, value) in found.items()} for user, found in latest.items()}

    def _facts(self, view: View, users: Sequence[str], deadline: float | None = None) -> Iterator[Fact]:
        partitions = sorted({partition_of(user) for user in users})
        where = all_of([counted(view, FACTS), one_of_integers("p", partitions), one_of("user", users)])
        statement = (
            f"SELECT user, place, key, time, kind, number, string, whole, list FROM {FACTS} WHERE {where}"
            " ORDER BY time DESC, seq DESC LIMIT 1 BY user, place, key"
        )
        for rows in self._cluster.read(statement, partitions, deadline=deadline):
            for user, place, key, time, *cell in rows:
                yield Fact(user, place, key, time, value_of(*cell))


def value_of(kind: int, number: float, string: str, whole: int, listed: Sequence[Any]) -> Value | None:
    """The value of a row of facts; None when it is unset."""
    match kind:
        case Kind.STRING.value:
            return string
        case Kind.NUMBER.value:
            return number
        case Kind.BOOL.value:
            return bool(whole)
        case Kind.TIME.value:
            return whole
        case Kind.LIST.value:
            return tuple(listed)
    assert kind == UNSET, f"a fact has the kind {kind}"
    return None
