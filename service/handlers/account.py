"""AccountService: accounts, workspaces, inputs and API keys."""

from __future__ import annotations

import grpc

from engine.resources.records import Account
from milepost.v1 import account_pb2, account_service_pb2_grpc
from milepost.v1 import account_service_pb2 as pb
from service.auth import audit
from service.auth.operators import refuse_limit, refuse_quota
from service.convert import accounts as convert
from service.convert.api_keys import api_key_message, api_key_of_message
from service.convert.faults import ShapeFaults
from service.convert.masks import (
    ACCOUNT_FIELDS,
    API_KEY_FIELDS,
    INPUT_FIELDS,
    WORKSPACE_FIELDS,
    masked_fields,
)
from service.convert.times import duration
from service.handlers.runtime import Runtime


class AccountHandlers(account_service_pb2_grpc.AccountServiceServicer):
    """See account_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._accounts = runtime.engine.accounts
        self._deletion = runtime.engine.deletion
        self._keys = runtime.engine.api_keys

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
        updated = self._accounts.update_account(
            record, fields, request.account.etag, quota_changes=refuse_quota
        )
        return pb.UpdateAccountResponse(account=self._message(updated), revision=self._runtime.revision())

    def DeleteAccount(
        self, request: pb.DeleteAccountRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAccountResponse:
        self._deletion.delete_account(request.name, request.confirmation, request.etag)
        return pb.DeleteAccountResponse(revision=self._runtime.revision())

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

    def DeleteWorkspace(
        self, request: pb.DeleteWorkspaceRequest, context: grpc.ServicerContext
    ) -> pb.DeleteWorkspaceResponse:
        self._deletion.delete_workspace(request.name, request.etag)
        return pb.DeleteWorkspaceResponse(revision=self._runtime.revision())

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

    def DeleteInput(
        self, request: pb.DeleteInputRequest, context: grpc.ServicerContext
    ) -> pb.DeleteInputResponse:
        self._deletion.delete_input(request.name, request.etag)
        return pb.DeleteInputResponse(revision=self._runtime.revision())

    def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: grpc.ServicerContext
    ) -> pb.CreateApiKeyResponse:
        record = api_key_of_message(request.api_key)
        created, secret = self._keys.create_key(
            request.parent,
            request.api_key_id,
            record,
            request.request_id,
            limit_changes=refuse_limit,
        )
        if secret:
            audit.key_changed("created", created)
        return pb.CreateApiKeyResponse(
            api_key=api_key_message(created), secret=secret, revision=self._runtime.revision()
        )

    def GetApiKey(self, request: pb.GetApiKeyRequest, context: grpc.ServicerContext) -> pb.GetApiKeyResponse:
        return pb.GetApiKeyResponse(api_key=api_key_message(self._keys.get_key(request.name)))

    def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: grpc.ServicerContext
    ) -> pb.ListApiKeysResponse:
        page = self._keys.list_keys(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListApiKeysResponse(
            api_keys=map(api_key_message, page.items), next_page_token=page.next_page_token
        )

    def UpdateApiKey(
        self, request: pb.UpdateApiKeyRequest, context: grpc.ServicerContext
    ) -> pb.UpdateApiKeyResponse:
        fields = masked_fields(request.api_key, request.update_mask, API_KEY_FIELDS)
        record = api_key_of_message(request.api_key)
        updated = self._keys.update_key(record, fields, request.api_key.etag, limit_changes=refuse_limit)
        audit.key_changed("updated", updated)
        return pb.UpdateApiKeyResponse(api_key=api_key_message(updated), revision=self._runtime.revision())

    def RotateApiKey(
        self, request: pb.RotateApiKeyRequest, context: grpc.ServicerContext
    ) -> pb.RotateApiKeyResponse:
        overlap = None
        if request.HasField("overlap"):
            faults = ShapeFaults()
            overlap = duration(request.overlap, "overlap", faults)
            faults.raise_if_any()
        rotated, secret = self._keys.rotate_key(request.name, overlap=overlap, etag=request.etag)
        audit.key_changed("rotated", rotated)
        return pb.RotateApiKeyResponse(
            api_key=api_key_message(rotated), secret=secret, revision=self._runtime.revision()
        )

    def DeleteApiKey(
        self, request: pb.DeleteApiKeyRequest, context: grpc.ServicerContext
    ) -> pb.DeleteApiKeyResponse:
        self._keys.delete_key(request.name, request.etag)
        audit.key_deleted(request.name)
        return pb.DeleteApiKeyResponse(revision=self._runtime.revision())
