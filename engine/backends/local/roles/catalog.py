"""Pages of the catalog (`engine.backends.base.CatalogReader`).

The state lock is taken for one entry at a time, or less, so other questions are answered in between. Values
of an attribute are counted without that lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar, cast

from engine.backends.base import (
    AttributeFacts,
    AttributePlace,
    EventNameFacts,
    EventPlace,
    Found,
    FoundText,
    Lookup,
    TextLookup,
    ValueCount,
)
from engine.backends.local.account.account import Account
from engine.backends.local.account.name_catalog import UNFINISHED, Catalog
from engine.backends.local.catalog.event_values import EventValueCounts
from engine.backends.local.catalog.lookups import Lookups, Steps
from engine.backends.local.catalog.value_counts import ValueCounts
from engine.backends.local.roles.open_store import OpenStore
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.name_table import FieldKind, field_name
from engine.backends.local.storage.store import Store
from engine.clock import Stamp
from engine.deadline import check_deadline
from engine.errors import DeadlineExceeded, StoreUnavailable

LOOKING_UP_S_MAX = 0.002
"""Time for which lookups hold the state lock, but for their last group of users."""

T = TypeVar("T")


class CatalogPages(OpenStore[Account]):
    """Lists what data came with."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._counting = FairLock()

    def look_up(self, account: str, lookups: Sequence[Lookup]) -> tuple[Found, ...]:
        """What is there; the state lock is released between groups of users."""
        nothing = (Found(is_there=False),) * len(lookups)
        return self._in_steps(account, lambda data: data.all_found(lookups), nothing)

    def find_text(self, account: str, lookup: TextLookup, fits: Callable[[str], bool]) -> FoundText:
        """Whether a string fits; the state lock is released between groups of users."""
        nothing = FoundText(fits=False, is_complete=True)
        return self._in_steps(account, lambda data: data.found_text(lookup, fits), nothing)

    def names_beside(self, account: str, lookup: TextLookup) -> tuple[str, ...]:
        """Names that could have been meant."""
        with self._locked():
            found = self._state.find_account(account)
            return () if found is None else Lookups(found).names_beside(lookup)

    def _in_steps(self, account: str, begin: Callable[[Lookups], Steps[T]], nothing: T) -> T:
        """The result of some work, `nothing` for an account without data."""
        with self._locked():
            found = self._state.find_account(account)
        if found is None:
            return nothing
        lookups = Lookups(found)
        work = begin(lookups)
        while True:
            with self._locked(), lookups.reading():
                let_others = time.monotonic() + LOOKING_UP_S_MAX
                try:
                    while time.monotonic() < let_others:
                        next(work)
                except StopIteration as end:
                    return cast(T, end.value)

    def event_names(
        self,
        account: str,
        *,
        input: str = "",
        prefix: str = "",
        after: EventPlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names in order of name, input and type."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked_in_time(deadline):
            names = catalog.event_names(input, prefix, after[0] if after else "")
        found: list[EventNameFacts] = []
        for name in names:
            if len(found) >= limit:
                break
            with self._locked_in_time(deadline):
                facts = catalog.events_named(name, input)
            found += [each for each in facts if after is None or each.place() > after]
        return tuple(found[:limit])

    def user_attributes(
        self,
        account: str,
        *,
        workspace: str = "",
        prefix: str = "",
        after: AttributePlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users in order of key and workspace."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked_in_time(deadline):
            places = catalog.user_attributes(workspace, prefix, after or ("", ""))
        found: list[AttributeFacts] = []
        for place in places:
            if len(found) >= limit:
                break
            if place == after:
                continue
            attribute = self._user_attribute(catalog, place, deadline)
            if attribute is not None:
                found.append(attribute)
        return tuple(found)

    def _user_attribute(
        self, catalog: Catalog, place: AttributePlace, deadline: float | None
    ) -> AttributeFacts | None:
        while True:
            with self._locked_in_time(deadline):
                attribute = catalog.user_attribute(place)
            if attribute is not UNFINISHED:
                return attribute

    def event_attributes(
        self,
        account: str,
        event_name: str,
        *,
        input: str = "",
        prefix: str = "",
        after: str | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name in order of key."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked_in_time(deadline):
            found = catalog.event_attributes(event_name, input, prefix)
        return tuple([each for each in found if after is None or each.key > after][:limit])

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        *,
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first. Only one such question runs at a time."""
        with ExitStack() as stack:
            stack.enter_context(self._counting_alone(deadline))
            with self._locked_in_time(deadline):
                found = self._state.find_account(account)
                field = None if found is None else found.fields.find(_field(workspace, key))
                if found is None or field is None:
                    return ()
                # Begun under the state lock, so both show the same moment.
                txn = stack.enter_context(self._store.index.reading())
                counts = ValueCounts(
                    self._state.page_cache,
                    txn,
                    found.number,
                    field,
                    found.groups,
                    lambda: self._go_on(deadline),
                )
            return tuple(counts.top(prefix, after, limit))

    def event_attribute_values(
        self,
        account: str,
        event_name: str,
        key: str,
        *,
        input: str = "",
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of an event attribute, most events first. Only one question about values runs at a
        time.
        """
        with ExitStack() as stack:
            stack.enter_context(self._counting_alone(deadline))
            with self._locked_in_time(deadline):
                found = self._state.find_account(account)
                if found is None:
                    return ()
                name, attribute = found.events.find(event_name), found.event_attributes.find(key)
                input_number = found.inputs.find(input) if input else None
                if name is None or attribute is None or (input and input_number is None):
                    return ()
                txn = stack.enter_context(self._store.index.reading())
                parts = found.tables.frozen_parts(name, input_number, attribute, txn)
            counts = EventValueCounts(parts, attribute, lambda: self._go_on(deadline))
            return tuple(counts.top(prefix, after, limit))

    def _go_on(self, deadline: float | None) -> None:
        if self._closing.is_set():
            raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")
        check_deadline(deadline)

    @contextmanager
    def _counting_alone(self, deadline: float | None = None) -> Iterator[None]:
        """While this block runs, no one else counts values."""
        if not self._counting.acquire(deadline):
            raise DeadlineExceeded("the deadline passed while waiting for the store")
        try:
            yield
        finally:
            self._counting.release()

    @contextmanager
    def _locked_in_time(self, deadline: float | None) -> Iterator[None]:
        with self._locked(deadline):
            check_deadline(deadline)
            yield

    def _catalog(self, account: str, deadline: float | None) -> Catalog | None:
        with self._locked_in_time(deadline):
            found: Account | None = self._state.find_account(account)
            return None if found is None else found.catalog


def _field(workspace: str, key: str) -> str:
    return field_name(FieldKind.ATTRIBUTE, workspace, key)
