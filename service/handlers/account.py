"""AccountService: accounts, workspaces and inputs."""

from __future__ import annotations

import grpc

from engine.resources.records import Account
from milepost.v1 import account_pb2, account_service_pb2_grpc
from milepost.v1 import account_service_pb2 as pb
from service.convert import accounts as convert
from service.convert.masks import ACCOUNT_FIELDS, INPUT_FIELDS, WORKSPACE_FIELDS, masked_fields
from service.handlers.runtime import Runtime


class AccountHandlers(account_service_pb2_grpc.AccountServiceServicer):
    """See account_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._accounts = runtime.engine.accounts

    def CreateAccount(
        self, request: pb.CreateAccountRequest, context: grpc.ServicerContext
    ) -> pb.CreateAccountResponse:
        record = convert.account_of_message(request.account)
        created = self._accounts.create_account(request.account_id, record, request.request_id)
        return pb.CreateAccountResponse(account=self._message(created), revision=self._runtime.revision())

    def GetAccount(
        self, request: pb.GetAccountRequest, context: grpc.ServicerContext
    ) -> pb.GetAccountResponse:
        return pb.GetAccountResponse(account=self._message(self._accounts.get_account(request.name)))

    def ListAccounts(
        self, request: pb.ListAccountsRequest, context: grpc.ServicerContext
    ) -> pb.ListAccountsResponse:
        page = self._accounts.list_accounts(page_size=request.page_size, page_token=request.page_token)
        return pb.ListAccountsResponse(
            accounts=map(self._message, page.items), next_page_token=page.next_page_token
        )

    def UpdateAccount(
        self, request: pb.UpdateAccountRequest, context: grpc.ServicerContext
    ) -> pb.UpdateAccountResponse:
        fields = masked_fields(request.account, request.update_mask, ACCOUNT_FIELDS)
        record = convert.account_of_message(request.account)
        updated = self._accounts.update_account(record, fields, request.account.etag)
        return pb.UpdateAccountResponse(account=self._message(updated), revision=self._runtime.revision())

    def _message(self, account: Account) -> account_pb2.Account:
        return convert.account_message(account, self._accounts.active_audience_count(account.name))

    def CreateWorkspace(
        self, request: pb.CreateWorkspaceRequest, context: grpc.ServicerContext
    ) -> pb.CreateWorkspaceResponse:
        record = convert.workspace_of_message(request.workspace)
        created = self._accounts.create_workspace(
            request.parent, request.workspace_id, record, request.request_id
        )
        return pb.CreateWorkspaceResponse(
            workspace=convert.workspace_message(created), revision=self._runtime.revision()
        )

    def GetWorkspace(
        self, request: pb.GetWorkspaceRequest, context: grpc.ServicerContext
    ) -> pb.GetWorkspaceResponse:
        workspace = self._accounts.get_workspace(request.name)
        return pb.GetWorkspaceResponse(workspace=convert.workspace_message(workspace))

    def ListWorkspaces(
        self, request: pb.ListWorkspacesRequest, context: grpc.ServicerContext
    ) -> pb.ListWorkspacesResponse:
        page = self._accounts.list_workspaces(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListWorkspacesResponse(
            workspaces=map(convert.workspace_message, page.items), next_page_token=page.next_page_token
        )

    def UpdateWorkspace(
        self, request: pb.UpdateWorkspaceRequest, context: grpc.ServicerContext
    ) -> pb.UpdateWorkspaceResponse:
        fields = masked_fields(request.workspace, request.update_mask, WORKSPACE_FIELDS)
        record = convert.workspace_of_message(request.workspace)
        updated = self._accounts.update_workspace(record, fields, request.workspace.etag)
        return pb.UpdateWorkspaceResponse(
            workspace=convert.workspace_message(updated), revision=self._runtime.revision()
        )

    def CreateInput(
        self, request: pb.CreateInputRequest, context: grpc.ServicerContext
    ) -> pb.CreateInputResponse:
        record = convert.input_of_message(request.input)
        created = self._accounts.create_input(request.parent, request.input_id, record, request.request_id)
        return pb.CreateInputResponse(input=convert.input_message(created), revision=self._runtime.revision())

    def GetInput(self, request: pb.GetInputRequest, context: grpc.ServicerContext) -> pb.GetInputResponse:
        return pb.GetInputResponse(input=convert.input_message(self._accounts.get_input(request.name)))

    def ListInputs(
        self, request: pb.ListInputsRequest, context: grpc.ServicerContext
    ) -> pb.ListInputsResponse:
        page = self._accounts.list_inputs(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListInputsResponse(
            inputs=map(convert.input_message, page.items), next_page_token=page.next_page_token
        )

    def UpdateInput(
        self, request: pb.UpdateInputRequest, context: grpc.ServicerContext
    ) -> pb.UpdateInputResponse:
        fields = masked_fields(request.input, request.update_mask, INPUT_FIELDS)
        record = convert.input_of_message(request.input)
        updated = self._accounts.update_input(record, fields, request.input.etag)
        return pb.UpdateInputResponse(input=convert.input_message(updated), revision=self._runtime.revision())
