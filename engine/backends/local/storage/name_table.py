"""Numbers for names: accounts, inputs, event names, attributes and fields, each u32 and never changed.

Numbers are given in the order of the log, so that replay gives the same ones. All names are kept in memory:
they are few beside users and events.
"""

from __future__ import annotations

import enum

import msgspec

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.transactions import Writable

NO_ACCOUNT = 0
"""The account under which the names of accounts themselves are numbered."""


class Space(enum.IntEnum):
    """What is numbered; each number is stored on disk and never changes."""

    ACCOUNT = 1
    INPUT = 2
    EVENT = 3
    EVENT_ATTRIBUTE = 4
    FIELD = 5


class NameSpace:
    """The names of one space of one account, numbered from 1."""

    def __init__(self, names: Names, space: Space, account: int) -> None:
        self._names = names
        self._space = space
        self._account = account
        self.numbers: dict[str, int] = {}
        self.names: dict[int, str] = {}

    def find(self, name: str) -> int | None:
        """The number of a name, or None when it has none."""
        return self.numbers.get(name)

    def number(self, name: str) -> int:
        """The number of a name; assigns one when it has none."""
        number = self.numbers.get(name)
        if number is None:
            number = len(self.numbers) + 1
            self.load(number, name)
            self._names.fresh.append((key(Family.NAME, self._space, self._account, number), name))
            self._names.version += 1
        return number

    def load(self, number: int, name: str) -> None:
        """Adds a stored pair."""
        self.numbers[name] = number
        self.names[number] = name


class Names:
    """All name spaces of a store."""

    def __init__(self, index: Environment) -> None:
        self.version = 0
        """Grows with every new name. Names resolved under an older version may resolve differently now."""
        self.fresh: list[tuple[bytes, str]] = []
        self._writing: list[tuple[bytes, str]] = []
        self._spaces: dict[tuple[Space, int], NameSpace] = {}
        with index.reading() as txn:
            for stored, name in txn.scan(key(Family.NAME)):
                space, account, number = (int(part) for part in parts_of(stored))
                self.space(Space(space), account).load(number, bytes(name).decode())

    def space(self, space: Space, account: int = NO_ACCOUNT) -> NameSpace:
        """One name space, created on first use."""
        found = self._spaces.get((space, account))
        if found is None:
            found = self._spaces[space, account] = NameSpace(self, space, account)
        return found

    def prepare(self) -> None:
        """Collects names that are new since the last checkpoint for `write`, which needs no lock."""
        self._writing, self.fresh = self.fresh, []

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        for stored, name in self._writing:
            txn.put(stored, name.encode())

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self._writing.clear()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self.fresh = [*self._writing, *self.fresh]
        self._writing.clear()


# --- fields -------------------------------------------------------------------------------------------------


_WORKSPACE_END = "/inputs/"


def workspace_of(input_name: str) -> str:
    """The workspace of an input, by its resource name."""
    return input_name.partition(_WORKSPACE_END)[0]


class FieldKind(enum.StrEnum):
    """What user-level data a field holds."""

    ATTRIBUTE = "attribute"
    IDENTITY = "identity"
    CONSENT = "consent"


class Field(msgspec.Struct, frozen=True, array_like=True):
    """A piece of user-level data: (ATTRIBUTE, workspace, key), (IDENTITY, type, "") or
    (CONSENT, regulation, purpose).
    """

    kind: FieldKind
    scope: str
    key: str = ""


def field_name(kind: FieldKind, scope: str, key: str = "") -> str:
    """The name under which a field is numbered, unambiguous whatever characters its parts have."""
    return msgspec.json.encode(Field(kind, scope, key)).decode()


def field_of(name: str) -> Field:
    """The inverse of `field_name`."""
    return msgspec.json.decode(name, type=Field)
