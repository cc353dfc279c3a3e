"""Numbers for names: accounts, inputs, event names, attributes and fields, each u32 and never changed.

Numbers are assigned in log order, so a replay assigns the same ones. A name that is forgotten leaves its
number without a name: if it comes again it gets a new number, and meets nothing of the old one. All names are
kept in memory: they are few beside users and events.
"""

from __future__ import annotations

import enum

import msgspec

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.unwritten import Unwritten

NO_ACCOUNT = 0
"""The account number used for the names of accounts themselves."""

FORGOTTEN = ""
"""Stored instead of a name that was forgotten."""


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
        self._given = 0
        self.version = 0
        """Grows with every name that comes or is forgotten."""
        self.numbers: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.forgotten: set[int] = set()
        """Numbers whose name was forgotten."""

    def find(self, name: str) -> int | None:
        """The number of a name; None when it has none."""
        return self.numbers.get(name)

    def number(self, name: str) -> int:
        """The number of a name; assigns one when it has none."""
        number = self.numbers.get(name)
        if number is None:
            number = self._given + 1
            self.load(number, name)
            self._changed(number, name)
        return number

    def forget(self, name: str) -> int:
        """Forgets a name that has a number, and returns the number, which is not given again."""
        number = self.numbers.pop(name)
        del self.names[number]
        self.forgotten.add(number)
        self._changed(number, FORGOTTEN)
        return number

    def load(self, number: int, name: str) -> None:
        """Adds a stored pair."""
        self._given = max(self._given, number)
        if name == FORGOTTEN:
            self.forgotten.add(number)
            return
        self.numbers[name] = number
        self.names[number] = name

    def _changed(self, number: int, name: str) -> None:
        self._names.fresh[key(Family.NAME, self._space, self._account, number)] = name
        self._names.version += 1
        self.version += 1


class Names(Unwritten[bytes, str]):
    """All name spaces of a store. New names are unwritten, by the key they get."""

    def __init__(self, index: Environment) -> None:
        super().__init__()
        self.version = 0
        """Grows with every name that comes or is forgotten. Names resolved under an older version may now
        resolve differently.
        """
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

    def known(self, account: str, space: Space) -> NameSpace | None:
        """A name space that has names, by the account's name. Needs no lock: it creates nothing."""
        number = self.space(Space.ACCOUNT).numbers.get(account)
        return None if number is None else self._spaces.get((space, number))

    def forget_account(self, name: str) -> None:
        """Forgets an account with all its names. The caller deletes what is stored of these."""
        number = self.space(Space.ACCOUNT).forget(name)
        for space in Space:
            self._spaces.pop((space, number), None)

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        for stored, name in self.writing.items():
            txn.put(stored, name.encode())


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
