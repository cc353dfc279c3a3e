"""The catalog: names and values in an account's data, for building criteria.

All figures are exact and exclude erased users; names without data are not listed. An attribute with values of
several kinds, or an input with names that no other input has, often points to a faulty integration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from engine.backends.base import AttributeFacts, CatalogReader, EventNameFacts, ValueCount
from engine.errors import InvalidInput
from engine.resources.names import Resource, check_name
from engine.resources.paging import Page, Question, page_size_of
from engine.resources.records import Account, Input, Workspace, account_of
from engine.resources.repository import Repository

T = TypeVar("T", bound=msgspec.Struct)
P = TypeVar("P")


class Catalog:
    """Lists in pages. `deadline` is an instant of `time.monotonic()`. All raise NotFound, InvalidInput,
    DeadlineExceeded and DataLoss.
    """

    def __init__(self, repository: Repository, backend: CatalogReader) -> None:
        self._repository = repository
        self._backend = backend

    def event_names(
        self,
        parent: str,
        *,
        input: str = "",
        prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        deadline: float | None = None,
    ) -> Page[EventNameFacts]:
        """Event names of an account that start with `prefix`, through one input or ("") all, in order of
        name, input and type.
        """
        self._check_account(parent)
        self._check_input(parent, input)
        return self._page(
            lambda after, limit: self._backend.event_names(
                parent, input=input, prefix=prefix, after=after, limit=limit, deadline=deadline
            ),
            EventNameFacts.place,
            tuple[str, str, int],
            ("list_event_names", parent, input, prefix),
            page_size,
            page_token,
        )

    def attributes(
        self,
        parent: str,
        *,
        event_name: str = "",
        workspace: str = "",
        input: str = "",
        prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        deadline: float | None = None,
    ) -> Page[AttributeFacts]:
        """Attributes of an account's users, in one workspace or ("") all; or, with an `event_name`, of its
        events, through one input or ("") all. In order of key and workspace.
        """
        self._check_account(parent)
        if event_name:
            if workspace:
                raise InvalidInput.one(
                    "workspace", "applies to user attributes only; leave it out with event_name"
                )
            self._check_input(parent, input)
            return self._event_attributes(parent, event_name, input, prefix, page_size, page_token, deadline)
        if input:
            raise InvalidInput.one("input", "applies to event attributes only; set event_name as well")
        if workspace:
            self._check_within(parent, workspace, "workspace", Resource.WORKSPACE)
            self._repository.get(Workspace, workspace)
        return self._page(
            lambda after, limit: self._backend.user_attributes(
                parent, workspace=workspace, prefix=prefix, after=after, limit=limit, deadline=deadline
            ),
            lambda facts: (facts.key, facts.workspace),
            tuple[str, str],
            ("list_user_attributes", parent, workspace, prefix),
            page_size,
            page_token,
        )

    def _event_attributes(
        self,
        parent: str,
        event_name: str,
        input: str,
        prefix: str,
        page_size: int,
        page_token: str,
        deadline: float | None,
    ) -> Page[AttributeFacts]:
        return self._page(
            lambda after, limit: self._backend.event_attributes(
                parent, event_name, input=input, prefix=prefix, after=after, limit=limit, deadline=deadline
            ),
            lambda facts: facts.key,
            str,
            ("list_event_attributes", parent, event_name, input, prefix),
            page_size,
            page_token,
        )

    def attribute_values(
        self,
        parent: str,
        key: str,
        *,
        event_name: str = "",
        input: str = "",
        prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        deadline: float | None = None,
    ) -> Page[ValueCount]:
        """The values that the users of a workspace have for an attribute; or, with an `event_name`, those
        that an account's events of that name carry, through one input or ("") all. Most frequent first, then
        in order of kind and value; with a prefix, only strings that start with it. Elements of lists count as
        strings.

        Pages are counted independently: when data arrive in between, a value whose position changed may be
        missed or listed twice.
        """
        if event_name:
            self._check_account(parent)
            self._check_input(parent, input)
        else:
            check_name(parent, "parent", Resource.WORKSPACE)
            self._repository.get(Workspace, parent)
            if input:
                raise InvalidInput.one("input", "applies to event attributes only; set event_name as well")
        if not key:
            raise InvalidInput.one("key", "is required")

        def values(after: ValueCount | None, limit: int) -> tuple[ValueCount, ...]:
            if event_name:
                return self._backend.event_attribute_values(
                    parent,
                    event_name,
                    key,
                    input=input,
                    prefix=prefix,
                    after=after,
                    limit=limit,
                    deadline=deadline,
                )
            return self._backend.attribute_values(
                account_of(parent), parent, key, prefix=prefix, after=after, limit=limit, deadline=deadline
            )

        question = ("list_attribute_values", parent, key, event_name, input, prefix)
        return self._page(values, lambda count: count, ValueCount, question, page_size, page_token)

    def _page(
        self,
        ask: Callable[[P | None, int], tuple[T, ...]],
        place: Callable[[T], P],
        place_type: type[P],
        question: Question,
        page_size: int,
        page_token: str,
    ) -> Page[T]:
        """The page after the token's position. Reads one item more to know whether another page follows."""
        size = page_size_of(page_size)
        after = self._repository.pages.decode(question, page_token, place_type) if page_token else None
        found = ask(after, size + 1)
        token = self._repository.pages.encode(question, place(found[size - 1])) if len(found) > size else ""
        return Page(found[:size], token)

    # --- resolving names ------------------------------------------------------------------------------------

    def _check_account(self, parent: str) -> None:
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)

    def _check_input(self, account: str, input: str) -> None:
        if input:
            self._check_within(account, input, "input", Resource.INPUT)
            self._repository.get(Input, input)

    def _check_within(self, account: str, name: str, field: str, kind: Resource) -> None:
        check_name(name, field, kind)
        if account_of(name) != account:
            raise InvalidInput.one(field, f"must belong to {account}, got {name!r}")
