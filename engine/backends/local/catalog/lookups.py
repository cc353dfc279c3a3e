"""Lookups (`engine.backends.base.lookups`): what an account's data have, one group of users at a time.

Nothing here reads users one by one. Kinds of events come from part metadata; those of users from bitmaps,
which are intersected with the users of the inputs until one common user is found. The caller holds the state
lock and may release it between two steps of a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar, assert_never

import msgspec
from pyroaring import BitMap

from engine.backends.base import (
    AttributeLookup,
    ConsentLookup,
    EventLookup,
    Found,
    FoundText,
    IdentityLookup,
    Lookup,
    TextLookup,
    UserLookup,
)
from engine.backends.base.lookups import NAMES_LISTED_MAX, TEXTS_LOOKED_AT_MAX
from engine.backends.local.account.account import Account
from engine.backends.local.attributes.index import EMPTY_LIST
from engine.backends.local.events.model import NEVER, ResolvedSelection
from engine.backends.local.storage.name_table import FieldKind, field_name, field_of
from engine.criteria.operators import ANY_KIND
from engine.values import Kind

TEXT_PARTS_MAX = 8
"""Parts of a group whose strings are looked at."""
FIELDS_LISTED_MAX = 2_000
"""Names of attributes and identities of an account that are read for a list: about a millisecond."""

_UserLookup: TypeAlias = AttributeLookup | IdentityLookup | ConsentLookup

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in steps, with a result."""

_STORED_KINDS = (*((kind, kind) for kind in Kind), (Kind.LIST, EMPTY_LIST))
"""Kinds, each with its number in the index."""


class Lookups:
    """The lookups in one account. Call with the state lock held."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._groups = range(account.groups)

    def reading(self) -> AbstractContextManager[None]:
        """Surrounds the steps that are taken without releasing the lock."""
        return self._account.tables.reading()

    def all_found(self, lookups: Sequence[Lookup]) -> Steps[tuple[Found, ...]]:
        """The answer to each lookup, a group at a time."""
        answers: tuple[Found, ...] = ()
        for lookup in lookups:
            answers += ((yield from self._found(lookup)),)
        return answers

    def _found(self, lookup: Lookup) -> Steps[Found]:
        match lookup:
            case EventLookup():
                return (yield from self._events(lookup))
            case AttributeLookup():
                return (yield from self._values(lookup, lookup.enough))
            case IdentityLookup() | ConsentLookup():
                return (yield from self._values(lookup, ANY_KIND))
            case UserLookup():
                return (yield from self._users(lookup))
            case _:
                assert_never(lookup)

    def found_text(self, lookup: TextLookup, fits: Callable[[str], bool]) -> Steps[FoundText]:
        """Whether a string fits, a group at a time."""
        search = _TextSearch(fits)
        for group in self._groups:
            if isinstance(lookup, EventLookup):
                self._search_events(lookup, group, search)
            else:
                self._search_users(lookup, group, search)
            if search.is_over:
                break
            yield
        return search.result()

    def names_beside(self, lookup: TextLookup) -> tuple[str, ...]:
        """The names of the account that could have been meant."""
        account = self._account
        match lookup:
            case EventLookup(key=""):
                names: Iterable[str] = account.events.numbers
            case EventLookup():
                names = account.event_attributes.numbers
            case AttributeLookup() | IdentityLookup():
                names = dict.fromkeys(self._field_names(lookup))
        return tuple(islice(names, NAMES_LISTED_MAX))

    def _field_names(self, lookup: AttributeLookup | IdentityLookup) -> Iterator[str]:
        for name in islice(self._account.fields.numbers, FIELDS_LISTED_MAX):
            field = field_of(name)
            if isinstance(lookup, IdentityLookup):
                if field.kind is FieldKind.IDENTITY:
                    yield field.scope
            elif field.kind is FieldKind.ATTRIBUTE and field.scope in lookup.workspaces:
                yield field.key

    # --- events ---------------------------------------------------------------------------------------------

    def _events(self, lookup: EventLookup) -> Steps[Found]:
        tables, attribute = self._account.tables, self._attribute(lookup)
        selections = list(self._selections(lookup))
        kinds: set[Kind] = set()
        for group in self._groups:
            for selection in selections:
                if not lookup.key:
                    if tables.has_events(group, selection):
                        return Found(True)
                else:
                    kinds |= tables.kinds(group, selection, attribute, lookup.enough)
                    if not kinds.isdisjoint(lookup.enough):
                        return Found(True, frozenset(kinds))
                yield
        return Found(bool(kinds), frozenset(kinds))

    def _selections(self, lookup: EventLookup) -> Iterator[ResolvedSelection]:
        """What is looked up in turn, so that a step is short: without a name, each name of each input."""
        whole = self._selection(lookup)
        if lookup.name:
            yield whole
            return
        for number in whole.inputs:
            for name in sorted(self._account.tables.names_through(number)):
                yield msgspec.structs.replace(whole, inputs=(number,), name=name)

    def _search_events(self, lookup: EventLookup, group: int, search: _TextSearch) -> None:
        tables = self._account.tables
        with tables.texts(group, self._selection(lookup), self._attribute(lookup), TEXT_PARTS_MAX) as found:
            texts, are_all = found
            search.is_complete &= are_all
            search.look((text, None) for text in texts)

    def _selection(self, lookup: EventLookup) -> ResolvedSelection:
        account = self._account
        name = account.events.numbers.get(lookup.name, NEVER) if lookup.name else None
        return ResolvedSelection(inputs=self._inputs(lookup.inputs), name=name, type=lookup.type)

    def _attribute(self, lookup: EventLookup) -> int:
        return self._account.event_attributes.numbers.get(lookup.key, NEVER)

    # --- users ----------------------------------------------------------------------------------------------

    def _values(self, lookup: _UserLookup, enough: frozenset[Kind]) -> Steps[Found]:
        properties, seen = self._account.properties, self._account.seen
        fields, numbers = self._fields(lookup), self._inputs(lookup.inputs)
        kinds: set[Kind] = set()
        for group in self._groups:
            for field in fields:
                for kind, stored_kind in _STORED_KINDS:
                    users = properties.present(field, stored_kind, group)
                    if users and kind not in kinds and seen.has_any(numbers, group, users):
                        kinds.add(kind)
            if not kinds.isdisjoint(enough):
                break
            yield
        return Found(bool(kinds), frozenset(kinds))

    def _users(self, lookup: UserLookup) -> Steps[Found]:
        seen = self._account.seen
        numbers, others = self._inputs(lookup.inputs), self._inputs(lookup.others)
        for group in self._groups:
            if seen.has_any(others, group, seen.users(numbers, group)):
                return Found(True)
            yield
        return Found(False)

    def _search_users(self, lookup: _UserLookup, group: int, search: _TextSearch) -> None:
        inputs = self._inputs(lookup.inputs)

        def is_there(users: Callable[[], BitMap]) -> bool:
            return self._account.seen.has_any(inputs, group, users())

        for field in self._fields(lookup):
            for kind in (Kind.STRING, Kind.LIST):
                texts = self._account.properties.texts_in_order(field, kind, group)
                search.look((text, partial(is_there, users)) for text, users in texts)

    def _fields(self, lookup: _UserLookup) -> Sequence[int]:
        match lookup:
            case AttributeLookup():
                names = [
                    field_name(FieldKind.ATTRIBUTE, workspace, lookup.key) for workspace in lookup.workspaces
                ]
            case IdentityLookup():
                names = [field_name(FieldKind.IDENTITY, lookup.type)]
            case ConsentLookup():
                names = [field_name(FieldKind.CONSENT, lookup.regulation, lookup.purpose)]
        numbers = self._account.fields.numbers
        return [numbers[name] for name in names if name in numbers]

    def _inputs(self, inputs: Iterable[str]) -> tuple[int, ...]:
        numbers = self._account.inputs.numbers
        return tuple(numbers[name] for name in inputs if name in numbers)


class _TextSearch:
    """The state of one search for a string that fits."""

    def __init__(self, fits: Callable[[str], bool]) -> None:
        self._fits = fits
        self._looked_at: set[str] = set()
        self._is_found = False
        self.is_complete = True
        """Whether no parts were left out."""

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self._is_found or len(self._looked_at) == TEXTS_LOOKED_AT_MAX

    def look(self, texts: Iterator[tuple[str, Callable[[], bool] | None]]) -> None:
        """Looks at strings, each with what tells whether it is there at all; None: it is."""
        for text, is_there in texts:
            if self.is_over:
                return
            self._looked_at.add(text)
            if self._fits(text) and (is_there is None or is_there()):
                self._is_found = True
                return

    def result(self) -> FoundText:
        """What was found."""
        return FoundText(self._is_found, is_complete=self.is_complete and not self.is_over)
