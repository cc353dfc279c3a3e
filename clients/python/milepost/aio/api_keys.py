"""Methods of AccountService: API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from google.protobuf.field_mask_pb2 import FieldMask

from milepost._arguments import require_several
from milepost.aio.base import PAGE_SIZE, AsyncClientBase, given
from milepost.v1.account_pb2 import SCOPE_OPERATOR, ApiKey, Scope
from milepost.v1.account_service_pb2 import (
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    DeleteApiKeyRequest,
    GetApiKeyRequest,
    ListApiKeysRequest,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
    UpdateApiKeyRequest,
)
from milepost.values import optional, to_duration, to_timestamp


class AsyncApiKeyMethods(AsyncClientBase):
    """Manages API keys, of the client's account and of operators.

    A key is given by its id or its name; operators' keys are named `apiKeys/{k}`.
    """

    async def create_api_key(
        self,
        api_key_id: str = "",
        *,
        scopes: Sequence[Scope.ValueType] = (),
        operator: bool = False,
        display_name: str = "",
        expire_time: datetime | None = None,
        calls_per_second_max: int = 0,
        in_flight_max: int = 0,
        request_id: str = "",
    ) -> CreateApiKeyResponse:
        """Creates an API key; the answer's `secret` is shown only now. `operator` makes one over all
        accounts, whose scope is SCOPE_OPERATOR. Raises AlreadyExists; FailedPrecondition while there is no
        operator key.
        """
        require_several(scopes=scopes)
        created = ApiKey(
            display_name=display_name,
            scopes=scopes or ([SCOPE_OPERATOR] if operator else ()),
            expire_time=optional(to_timestamp, expire_time, "expire_time"),
            calls_per_second_max=calls_per_second_max,
            in_flight_max=in_flight_max,
        )
        request = CreateApiKeyRequest(
            parent="" if operator else self.account_name,
            api_key_id=api_key_id,
            api_key=created,
            request_id=request_id,
        )
        # Not repeated: the answer to a repeat lacks the secret.
        return await self.accounts.CreateApiKey(request)

    async def get_api_key(self, api_key: str) -> ApiKey:
        """An API key, without its secret."""
        return (await self.accounts.GetApiKey(GetApiKeyRequest(name=self.api_key_name(api_key)))).api_key

    async def list_api_keys(self, *, operator: bool = False) -> AsyncIterator[ApiKey]:
        """The account's API keys, or those of operators, in order of name."""
        parent = "" if operator else self.account_name
        request = ListApiKeysRequest(parent=parent, page_size=PAGE_SIZE)
        async for page in self.pages(self.accounts.ListApiKeys, request):
            for each in page.api_keys:
                yield each

    async def update_api_key(
        self,
        api_key: str,
        *,
        scopes: Sequence[Scope.ValueType] | None = None,
        display_name: str | None = None,
        expire_time: datetime | None = None,
        calls_per_second_max: int | None = None,
        in_flight_max: int | None = None,
        etag: str = "",
    ) -> ApiKey:
        """Changes what is given of an API key. Raises Aborted when `etag` is not the current one."""
        require_several(**given(scopes=scopes))
        fields = given(
            scopes=scopes,
            display_name=display_name,
            expire_time=optional(to_timestamp, expire_time, "expire_time"),
            calls_per_second_max=calls_per_second_max,
            in_flight_max=in_flight_max,
        )
        changed = ApiKey(name=self.api_key_name(api_key), etag=etag, **fields)
        request = UpdateApiKeyRequest(api_key=changed, update_mask=FieldMask(paths=fields))
        return (await self.accounts.UpdateApiKey(request)).api_key

    async def rotate_api_key(
        self, api_key: str, *, overlap: timedelta | None = None, etag: str = ""
    ) -> RotateApiKeyResponse:
        """Gives an API key a new secret, which the answer shows only now. The one before is accepted for
        `overlap`, by default 24 hours; zero refuses it at once.
        """
        request = RotateApiKeyRequest(
            name=self.api_key_name(api_key), etag=etag, overlap=optional(to_duration, overlap, "overlap")
        )
        return await self.accounts.RotateApiKey(request)

    async def delete_api_key(self, api_key: str, *, etag: str = "") -> None:
        """Deletes an API key: calls with it fail at once, and running streams end."""
        await self.accounts.DeleteApiKey(DeleteApiKeyRequest(name=self.api_key_name(api_key), etag=etag))
