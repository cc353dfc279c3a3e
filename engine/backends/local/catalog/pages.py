"""Pages of the catalog.

The state lock is taken for one entry at a time, or less, so other questions are answered in between. Values
of an attribute are counted without that lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from engine.backends.base import AttributeFacts, AttributePlace, EventNameFacts, EventPlace, ValueCount
from engine.backends.local.account.account import Account
from engine.backends.local.account.name_catalog import UNFINISHED, Catalog
from engine.backends.local.catalog.value_counts import ValueCounts
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.name_table import FieldKind, field_name
from engine.backends.local.write.state import State
from engine.errors import DeadlineExceeded, StoreUnavailable


class Catalogs:
    """The catalogs of all accounts, as `engine.backends.base.Backend` describes them. `check` raises when the
    store cannot be read.
    """

    def __init__(self, state: State, index: Environment, check: Callable[[], None]) -> None:
        self._state = state
        self._index = index
        self._check = check
        self._counting = FairLock()
        self._closing = False

    def event_names(
        self,
        account: str,
        input: str,
        prefix: str,
        after: EventPlace | None,
        limit: int,
        deadline: float | None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names in order of name, input and type."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked(deadline):
            names = catalog.event_names(input, prefix, after[0] if after else "")
        found: list[EventNameFacts] = []
        for name in names:
            if len(found) >= limit:
                break
            with self._locked(deadline):
                facts = catalog.events_named(name, input)
            found += [each for each in facts if after is None or each.place() > after]
        return tuple(found[:limit])

    def user_attributes(
        self,
        account: str,
        workspace: str,
        prefix: str,
        after: AttributePlace | None,
        limit: int,
        deadline: float | None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users in order of key and workspace."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked(deadline):
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
            with self._locked(deadline):
                attribute = catalog.user_attribute(place)
            if attribute is not UNFINISHED:
                return attribute

    def event_attributes(
        self,
        account: str,
        event_name: str,
        input: str,
        prefix: str,
        after: str | None,
        limit: int,
        deadline: float | None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name in order of key."""
        catalog = self._catalog(account, deadline)
        if catalog is None:
            return ()
        with self._locked(deadline):
            found = catalog.event_attributes(event_name, input, prefix)
        return tuple([each for each in found if after is None or each.key > after][:limit])

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        prefix: str,
        after: ValueCount | None,
        limit: int,
        deadline: float | None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first. Only one such question runs at a time."""
        with ExitStack() as stack:
            stack.enter_context(self.still(deadline))
            with self._locked(deadline):
                found = self._state.find_account(account)
                field = None if found is None else found.fields.find(_field(workspace, key))
                if found is None or field is None:
                    return ()
                # Begun under the state lock, so both show the same moment.
                txn = stack.enter_context(self._index.reading())
                counts = ValueCounts(
                    self._state.page_cache,
                    txn,
                    found.number,
                    field,
                    found.groups,
                    lambda: self._go_on(deadline),
                )
            return tuple(counts.top(prefix, after, limit))

    def _go_on(self, deadline: float | None) -> None:
        if self._closing:
            raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")
        _check_deadline(deadline)

    @contextmanager
    def still(self, deadline: float | None = None) -> Iterator[None]:
        """While this block runs, no one else counts values."""
        if not self._counting.acquire(deadline):
            raise DeadlineExceeded("the deadline passed while waiting for the store")
        try:
            yield
        finally:
            self._counting.release()

    def close(self) -> None:
        """Stops counts under way."""
        self._closing = True

    @contextmanager
    def _locked(self, deadline: float | None) -> Iterator[None]:
        with self._state.locked(deadline):
            self._check()
            _check_deadline(deadline)
            yield

    def _catalog(self, account: str, deadline: float | None) -> Catalog | None:
        with self._locked(deadline):
            found: Account | None = self._state.find_account(account)
            return None if found is None else found.catalog


def _field(workspace: str, key: str) -> str:
    return field_name(FieldKind.ATTRIBUTE, workspace, key)


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded("the deadline passed before the answer")
