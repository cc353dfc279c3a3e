"""Methods of AccountService: accounts, workspaces, inputs, and the API keys of the class below this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from google.protobuf.field_mask_pb2 import FieldMask

from milepost import names
from milepost.aio.api_keys import AsyncApiKeyMethods
from milepost.aio.base import PAGE_SIZE, ensured, given
from milepost.v1.account_pb2 import (
    INPUT_KIND_UNSPECIFIED,
    Account,
    AccountQuotas,
    Input,
    InputKind,
    Workspace,
)
from milepost.v1.account_service_pb2 import (
    CreateAccountRequest,
    CreateInputRequest,
    CreateWorkspaceRequest,
    DeleteAccountRequest,
    DeleteInputRequest,
    DeleteWorkspaceRequest,
    GetAccountRequest,
    GetInputRequest,
    GetWorkspaceRequest,
    ListAccountsRequest,
    ListInputsRequest,
    ListWorkspacesRequest,
    UpdateAccountRequest,
    UpdateInputRequest,
    UpdateWorkspaceRequest,
)
from milepost.values import optional, to_duration


class AsyncAccountMethods(AsyncApiKeyMethods):
    """Manages accounts, and the workspaces and inputs of the client's account."""

    # --- accounts ---

    async def create_account(
        self,
        account: str = "",
        *,
        display_name: str = "",
        active_audience_limit: int = 0,
        time_zone: str = "",
        event_retention: timedelta | None = None,
        quotas: AccountQuotas | None = None,
        request_id: str = "",
    ) -> Account:
        """Creates an account with this id, by default the client's. Raises AlreadyExists.

        Defaults: no display name, 100 activated audiences, UTC, and events are kept for ever.
        """
        created = Account(
            display_name=display_name,
            active_audience_limit=active_audience_limit,
            time_zone=time_zone,
            event_retention=optional(to_duration, event_retention, "event_retention"),
            quotas=quotas,
        )
        account_id = names.last_id(self.account_name_of(account))
        request = CreateAccountRequest(account_id=account_id, account=created, request_id=request_id)
        return (await self.write(self.accounts.CreateAccount, request)).account

    async def get_account(self, account: str = "") -> Account:
        """An account, by default the client's."""
        return (await self.accounts.GetAccount(GetAccountRequest(name=self.account_name_of(account)))).account

    async def list_accounts(self) -> AsyncIterator[Account]:
        """Every account, in order of name."""
        async for page in self.pages(self.accounts.ListAccounts, ListAccountsRequest(page_size=PAGE_SIZE)):
            for each in page.accounts:
                yield each

    async def update_account(
        self,
        account: str = "",
        *,
        display_name: str | None = None,
        active_audience_limit: int | None = None,
        time_zone: str | None = None,
        event_retention: timedelta | None = None,
        quotas: AccountQuotas | None = None,
        etag: str = "",
    ) -> Account:
        """Changes what is given of an account, by default of the client's. An `event_retention` of 0 keeps
        all events from now on. `quotas` are replaced together, 0 = the default; only operators change them
        and `active_audience_limit`. Raises Aborted when `etag` is not the current one, PermissionDenied.
        """
        fields = given(
            display_name=display_name,
            active_audience_limit=active_audience_limit,
            time_zone=time_zone,
            event_retention=optional(to_duration, event_retention, "event_retention"),
            quotas=quotas,
        )
        changed = Account(name=self.account_name_of(account), etag=etag, **fields)
        request = UpdateAccountRequest(account=changed, update_mask=FieldMask(paths=fields))
        return (await self.accounts.UpdateAccount(request)).account

    async def delete_account(self, account: str, *, confirmation: str, etag: str = "") -> None:
        """Deletes an account, for good; `confirmation` repeats its id. Raises FailedPrecondition while it has
        journeys, connections, outputs or workspaces.
        """
        name = self.account_name_of(account)
        await self.accounts.DeleteAccount(
            DeleteAccountRequest(name=name, confirmation=confirmation, etag=etag)
        )

    async def ensure_account(
        self,
        *,
        display_name: str = "",
        active_audience_limit: int = 0,
        time_zone: str = "",
        event_retention: timedelta | None = None,
    ) -> Account:
        """The client's account, created if missing, and changed where it differs from what is given. What is
        not given stays; the display name of a new account is then its id.
        """
        asked = Account(
            name=self.account_name,
            display_name=display_name,
            active_audience_limit=active_audience_limit,
            time_zone=time_zone,
            event_retention=optional(to_duration, event_retention, "event_retention"),
        )

        async def update(mask: FieldMask) -> Account:
            request = UpdateAccountRequest(account=asked, update_mask=mask)
            return (await self.accounts.UpdateAccount(request)).account

        return await ensured(
            asked,
            self.get_account,
            lambda: self.create_account(
                display_name=display_name or self.account_id,
                active_audience_limit=active_audience_limit,
                time_zone=time_zone,
                event_retention=event_retention,
            ),
            update,
        )

    # --- workspaces ---

    async def create_workspace(
        self, workspace_id: str = "", *, display_name: str = "", request_id: str = ""
    ) -> Workspace:
        """Creates a workspace; without an id the service chooses one. Raises AlreadyExists."""
        request = CreateWorkspaceRequest(
            parent=self.account_name,
            workspace_id=workspace_id,
            workspace=Workspace(display_name=display_name),
            request_id=request_id,
        )
        return (await self.write(self.accounts.CreateWorkspace, request)).workspace

    async def get_workspace(self, workspace: str) -> Workspace:
        """A workspace, given by id or name."""
        request = GetWorkspaceRequest(name=self.workspace_name(workspace))
        return (await self.accounts.GetWorkspace(request)).workspace

    async def list_workspaces(self) -> AsyncIterator[Workspace]:
        """The account's workspaces, in order of name."""
        request = ListWorkspacesRequest(parent=self.account_name, page_size=PAGE_SIZE)
        async for page in self.pages(self.accounts.ListWorkspaces, request):
            for each in page.workspaces:
                yield each

    async def update_workspace(
        self, workspace: str, *, display_name: str | None = None, etag: str = ""
    ) -> Workspace:
        """Changes what is given of a workspace. Raises Aborted when `etag` is not the current one."""
        fields = given(display_name=display_name)
        changed = Workspace(name=self.workspace_name(workspace), etag=etag, **fields)
        request = UpdateWorkspaceRequest(workspace=changed, update_mask=FieldMask(paths=fields))
        return (await self.accounts.UpdateWorkspace(request)).workspace

    async def delete_workspace(self, workspace: str, *, etag: str = "") -> None:
        """Deletes a workspace, for good. Raises FailedPrecondition while it has inputs."""
        name = self.workspace_name(workspace)
        await self.accounts.DeleteWorkspace(DeleteWorkspaceRequest(name=name, etag=etag))

    async def ensure_workspace(self, workspace_id: str, *, display_name: str = "") -> Workspace:
        """A workspace, created if missing, and changed where it differs from what is given. The display name
        of a new one is by default its id.
        """
        asked = Workspace(name=names.workspace(self.account_id, workspace_id), display_name=display_name)

        async def update(mask: FieldMask) -> Workspace:
            request = UpdateWorkspaceRequest(workspace=asked, update_mask=mask)
            return (await self.accounts.UpdateWorkspace(request)).workspace

        return await ensured(
            asked,
            lambda: self.get_workspace(asked.name),
            lambda: self.create_workspace(workspace_id, display_name=display_name or workspace_id),
            update,
        )

    # --- inputs ---

    async def create_input(
        self,
        workspace: str,
        input_id: str = "",
        *,
        display_name: str = "",
        kind: InputKind.ValueType = INPUT_KIND_UNSPECIFIED,
        request_id: str = "",
    ) -> Input:
        """Creates an input in a workspace; without an id the service chooses one. Raises AlreadyExists, and
        NotFound for the workspace.
        """
        request = CreateInputRequest(
            parent=self.workspace_name(workspace),
            input_id=input_id,
            input=Input(display_name=display_name, kind=kind),
            request_id=request_id,
        )
        return (await self.write(self.accounts.CreateInput, request)).input

    async def get_input(self, input: str) -> Input:
        """An input, given as "workspace/input" or by name."""
        return (await self.accounts.GetInput(GetInputRequest(name=self.input_name(input)))).input

    async def list_inputs(self, workspace: str = names.ANY) -> AsyncIterator[Input]:
        """The inputs of a workspace, by default of all, in order of name."""
        request = ListInputsRequest(parent=self.workspace_name(workspace), page_size=PAGE_SIZE)
        async for page in self.pages(self.accounts.ListInputs, request):
            for each in page.inputs:
                yield each

    async def update_input(
        self,
        input: str,
        *,
        display_name: str | None = None,
        kind: InputKind.ValueType | None = None,
        etag: str = "",
    ) -> Input:
        """Changes what is given of an input. Raises Aborted when `etag` is not the current one."""
        fields = given(display_name=display_name, kind=kind)
        changed = Input(name=self.input_name(input), etag=etag, **fields)
        mask = FieldMask(paths=fields)
        return (await self.accounts.UpdateInput(UpdateInputRequest(input=changed, update_mask=mask))).input

    async def delete_input(self, input: str, *, etag: str = "") -> None:
        """Deletes an input, for good. Raises FailedPrecondition while users belong to it, or while a journey
        or criteria name it.
        """
        await self.accounts.DeleteInput(DeleteInputRequest(name=self.input_name(input), etag=etag))

    async def ensure_input(
        self,
        workspace_id: str,
        input_id: str,
        *,
        display_name: str = "",
        kind: InputKind.ValueType = INPUT_KIND_UNSPECIFIED,
    ) -> Input:
        """An input, created with its workspace if missing, and changed where it differs from what is given.
        The display name of a new one is by default its id.
        """
        asked = Input(
            name=names.input_(self.account_id, workspace_id, input_id), display_name=display_name, kind=kind
        )
        await self.ensure_workspace(workspace_id)

        async def update(mask: FieldMask) -> Input:
            request = UpdateInputRequest(input=asked, update_mask=mask)
            return (await self.accounts.UpdateInput(request)).input

        return await ensured(
            asked,
            lambda: self.get_input(asked.name),
            lambda: self.create_input(
                workspace_id, input_id, display_name=display_name or input_id, kind=kind
            ),
            update,
        )
