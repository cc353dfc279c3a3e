"""Lookups: whether data of some kind are there at all, for warnings about criteria."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from engine.criteria.model import EventType
from engine.values import Kind

TEXTS_LOOKED_AT_MAX = 1_000
"""Different strings that a search for one of a form looks at."""
NAMES_LISTED_MAX = 1_000
"""Names that a list of those beside a lookup's has."""


class EventLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Events through some inputs with a name ("" = any) and type (None = any); with a key, those that carry
    the attribute.

    Once one of the kinds in `enough` is found, the answer may leave out others. So do those of
    `AttributeLookup`.
    """

    inputs: tuple[str, ...]
    name: str = ""
    type: EventType | None = None
    key: str = ""
    enough: frozenset[Kind] = frozenset()


class AttributeLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Users of some inputs that have the attribute in at least one of the workspaces."""

    inputs: tuple[str, ...]
    workspaces: tuple[str, ...]
    key: str
    enough: frozenset[Kind] = frozenset()


class IdentityLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Users of some inputs that have an identity of the type."""

    inputs: tuple[str, ...]
    type: str


class ConsentLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Users of some inputs that gave or denied the consent."""

    inputs: tuple[str, ...]
    regulation: str
    purpose: str


class UserLookup(msgspec.Struct, frozen=True, kw_only=True):
    """Users that belong to one of the inputs and to one of `others`."""

    inputs: tuple[str, ...]
    others: tuple[str, ...]


TextLookup: TypeAlias = EventLookup | AttributeLookup | IdentityLookup
"""Lookups of one name, whose values may be strings."""
Lookup: TypeAlias = TextLookup | ConsentLookup | UserLookup


class Found(msgspec.Struct, frozen=True):
    """Whether there are such events or users, and for lookups of attributes the kinds of their values."""

    is_there: bool
    kinds: frozenset[Kind] = frozenset()


class FoundText(msgspec.Struct, frozen=True):
    """Whether a string fits; when none does, `is_complete` tells whether all were looked at."""

    fits: bool
    is_complete: bool


class LookupReader(Protocol):
    """Looks up what is there now. Erased users and removed events do not count."""

    def look_up(self, account: str, lookups: Sequence[Lookup]) -> tuple[Found, ...]:
        """One answer for each lookup, without reading users or events one by one. An answer may reflect
        several states of the data during the call.
        """
        ...

    def find_text(self, account: str, lookup: TextLookup, fits: Callable[[str], bool]) -> FoundText:
        """Looks for a string that fits, alone or in a list, among at most `TEXTS_LOOKED_AT_MAX` of those that
        the lookup's events or users have.
        """
        ...

    def names_beside(self, account: str, lookup: TextLookup) -> tuple[str, ...]:
        """Names that could have been meant instead of the lookup's: of attributes of its events when it has a
        key, else of events; of attributes of users, in its workspaces; of types of identities. At most
        `NAMES_LISTED_MAX`, in no order. Some may have no data, or none through the inputs.
        """
        ...
