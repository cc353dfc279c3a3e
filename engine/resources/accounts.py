"""Accounts, their workspaces and inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import msgspec

from engine.clock import Clock
from engine.criteria.zones import BadTimeZone, load_zone
from engine.errors import AlreadyExists, Violation
from engine.limits import QUOTA_FIELDS, SLOTS_PERCENT_MAX, Limits
from engine.resources.activation import Activation
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.leftovers import Leftovers
from engine.resources.names import ANY, Resource, check_name, chosen_or_made_id
from engine.resources.paging import Page
from engine.resources.quotas import without_defaults
from engine.resources.records import (
    ACTIVE_AUDIENCE_LIMIT_DEFAULT,
    Account,
    Input,
    Workspace,
)
from engine.resources.repository import Repository
from engine.resources.requests import Requests

OPERATOR_FIELDS = ("active_audience_limit", "quotas")
"""Fields of an account that belong to operators."""
ACCOUNT_FIELDS = frozenset({"display_name", "time_zone", "event_retention", *OPERATOR_FIELDS})
WORKSPACE_FIELDS = frozenset({"display_name"})
INPUT_FIELDS = frozenset({"display_name", "kind"})


class Accounts:
    """Creates, reads and changes accounts, workspaces and inputs."""

    def __init__(
        self,
        repository: Repository,
        activation: Activation,
        leftovers: Leftovers,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._activation = activation
        self._leftovers = leftovers
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock

    # --- accounts -------------------------------------------------------------------------------------------

    def create_account(self, account_id: str, account: Account, request_id: str = "") -> Account:
        """Creates an account. Its `name` is built from the id. Raises AlreadyExists, InvalidInput."""
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_account", "", request_id, Account)
            if answered is not None:
                return answered
            name = f"accounts/{chosen_or_made_id(account_id, 'account_id')}"
            if self._repository.find(Account, name) is not None:
                raise AlreadyExists(name)
            self._leftovers.clear(name)
            now = self._clock()
            created = msgspec.structs.replace(
                account,
                name=name,
                active_audience_limit=account.active_audience_limit or ACTIVE_AUDIENCE_LIMIT_DEFAULT,
                time_zone=account.time_zone or "UTC",
                quotas=without_defaults(account.quotas),
                create_time=now,
                update_time=now,
            )
            refuse_if_any(self._account_faults(created))
            changes.put(created)
            self._requests.remember(changes, "create_account", "", request_id, created)
            return created

    def get_account(self, name: str) -> Account:
        """The account. Raises NotFound."""
        check_name(name, "name", Resource.ACCOUNT)
        return self._repository.get(Account, name)

    def list_accounts(self, *, page_size: int = 0, page_token: str = "") -> Page[Account]:
        """Every account, in order of name."""
        accounts = self._repository.scan(Account, "")
        return self._repository.pages.by_name(
            accounts, ("list_accounts",), page_size=page_size, page_token=page_token
        )

    def update_account(
        self,
        record: Account,
        fields: Collection[str],
        etag: str = "",
        *,
        quota_changes: Callable[[str], None] = lambda field: None,
    ) -> Account:
        """Changes the named fields. Calls `quota_changes` with each field of `OPERATOR_FIELDS` that gets
        another value, which may refuse that. Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(record.name, "account.name", Resource.ACCOUNT)
        values = masked_values(record, fields, ACCOUNT_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Account, record.name)
            check_etag(known, etag)
            if "time_zone" in values:
                values["time_zone"] = values["time_zone"] or "UTC"
            if "quotas" in values:
                values["quotas"] = without_defaults(values["quotas"])
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._account_faults(updated))
            for field in OPERATOR_FIELDS:
                if getattr(updated, field) != getattr(known, field):
                    quota_changes(field)
            changes.put(updated)
            return updated

    def active_audience_count(self, account: str) -> int:
        """Number of activated audiences in the account."""
        return len(self._activation.activated(account))

    def _account_faults(self, account: Account) -> Iterable[Violation]:
        yield from display_name_faults(account.display_name, "account.display_name", self._limits)
        if account.active_audience_limit < 0:
            yield Violation("account.active_audience_limit", "must not be negative")
        for name in QUOTA_FIELDS:
            if getattr(account.quotas, name) < 0:
                yield Violation(f"account.quotas.{name}", "must not be negative")
        if account.quotas.slots_percent_max > SLOTS_PERCENT_MAX:
            yield Violation("account.quotas.slots_percent_max", f"must be 0 to {SLOTS_PERCENT_MAX}")
        if account.event_retention < 0:
            yield Violation("account.event_retention", "must not be negative")
        try:
            load_zone(account.time_zone)
        except BadTimeZone as error:
            yield Violation("account.time_zone", str(error))

    # --- workspaces -----------------------------------------------------------------------------------------

    def create_workspace(
        self, parent: str, workspace_id: str, workspace: Workspace, request_id: str = ""
    ) -> Workspace:
        """Creates a group of inputs. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_workspace", parent, request_id, Workspace)
            if answered is not None:
                return answered
            self._repository.get(Account, parent)
            name = f"{parent}/workspaces/{chosen_or_made_id(workspace_id, 'workspace_id')}"
            if self._repository.find(Workspace, name) is not None:
                raise AlreadyExists(name)
            self._leftovers.clear(name)
            refuse_if_any(display_name_faults(workspace.display_name, "workspace.display_name", self._limits))
            now = self._clock()
            created = msgspec.structs.replace(workspace, name=name, create_time=now, update_time=now)
            changes.put(created)
            self._requests.remember(changes, "create_workspace", parent, request_id, created)
            return created

    def get_workspace(self, name: str) -> Workspace:
        """The workspace. Raises NotFound."""
        check_name(name, "name", Resource.WORKSPACE)
        return self._repository.get(Workspace, name)

    def list_workspaces(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[Workspace]:
        """The account's workspaces, in order of name. Raises NotFound."""
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)
        workspaces = self._repository.scan(Workspace, f"{parent}/workspaces/")
        question = ("list_workspaces", parent)
        return self._repository.pages.by_name(
            workspaces, question, page_size=page_size, page_token=page_token
        )

    def update_workspace(self, record: Workspace, fields: Collection[str], etag: str = "") -> Workspace:
        """Changes the named fields. Raises NotFound, EtagMismatch."""
        check_name(record.name, "workspace.name", Resource.WORKSPACE)
        values = masked_values(record, fields, WORKSPACE_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Workspace, record.name)
            check_etag(known, etag)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(display_name_faults(updated.display_name, "workspace.display_name", self._limits))
            changes.put(updated)
            return updated

    # --- inputs ---------------------------------------------------------------------------------------------

    def create_input(self, parent: str, input_id: str, input: Input, request_id: str = "") -> Input:
        """Creates an input. Journeys over all inputs include it immediately. Raises NotFound, AlreadyExists,
        InvalidInput.
        """
        check_name(parent, "parent", Resource.WORKSPACE)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_input", parent, request_id, Input)
            if answered is not None:
                return answered
            self._repository.get(Workspace, parent)
            name = f"{parent}/inputs/{chosen_or_made_id(input_id, 'input_id')}"
            if self._repository.find(Input, name) is not None:
                raise AlreadyExists(name)
            self._leftovers.clear(name)
            refuse_if_any(display_name_faults(input.display_name, "input.display_name", self._limits))
            now = self._clock()
            created = msgspec.structs.replace(input, name=name, create_time=now, update_time=now)
            changes.put(created)
            self._requests.remember(changes, "create_input", parent, request_id, created)
            return created

    def get_input(self, name: str) -> Input:
        """The input. Raises NotFound."""
        check_name(name, "name", Resource.INPUT)
        return self._repository.get(Input, name)

    def list_inputs(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[Input]:
        """The workspace's inputs in order of name, or with `accounts/{a}/workspaces/-` the account's. Raises
        NotFound.
        """
        account, _, workspace = parent.rpartition("/workspaces/")
        if workspace == ANY:
            check_name(account, "parent", Resource.ACCOUNT)
            self._repository.get(Account, account)
            inputs = self._repository.scan(Input, f"{account}/workspaces/")
        else:
            check_name(parent, "parent", Resource.WORKSPACE)
            self._repository.get(Workspace, parent)
            inputs = self._repository.scan(Input, f"{parent}/inputs/")
        return self._repository.pages.by_name(
            inputs, ("list_inputs", parent), page_size=page_size, page_token=page_token
        )

    def update_input(self, record: Input, fields: Collection[str], etag: str = "") -> Input:
        """Changes the named fields. Raises NotFound, EtagMismatch."""
        check_name(record.name, "input.name", Resource.INPUT)
        values = masked_values(record, fields, INPUT_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Input, record.name)
            check_etag(known, etag)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(display_name_faults(updated.display_name, "input.display_name", self._limits))
            changes.put(updated)
            return updated
