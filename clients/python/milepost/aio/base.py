"""What the methods of every service build on: the connection, readiness, pages, retries."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from milepost._channel import CallSettings, ChannelOptions, chosen_key
from milepost._channel_aio import AsyncFriendlyChannel, open_async_channel
from milepost._concurrency import AsyncCall, async_sleep
from milepost._health import HEALTH_METHOD, SERVING, THE_SERVER
from milepost._naming import Naming
from milepost._retrying import new_request_id
from milepost.aio.retrying import with_retry
from milepost.errors import AlreadyExists, NotFound
from milepost.tls import TLS, credentials_of
from milepost.v1.account_service_pb2_grpc import AccountServiceStub
from milepost.v1.admin_service_pb2_grpc import AdminServiceStub
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from milepost.v1.catalog_service_pb2_grpc import CatalogServiceStub
from milepost.v1.connection_service_pb2_grpc import ConnectionServiceStub
from milepost.v1.ingest_service_pb2_grpc import IngestServiceStub
from milepost.v1.journey_service_pb2 import GetMilestoneRequest
from milepost.v1.journey_service_pb2_grpc import JourneyServiceStub

DEFAULT_TARGET = "localhost:7443"
TIMEOUT_SECONDS = 60.0
PAGE_SIZE = 1_000
HEALTH_POLL_SECONDS = 0.1
HEALTH_CALL_SECONDS = 2.0

Resource = TypeVar("Resource", bound=Message)
Answer = TypeVar("Answer")


class AsyncClientBase(Naming):
    """The connection to a service, with a default account."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        account: str = "",
        timeout: float = TIMEOUT_SECONDS,
        api_key: str | None = None,
        tls: TLS | bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        channel: Any = None,
    ) -> None:
        """`api_key` is by default the variable MILEPOST_API_KEY. `tls` encrypts; `credentials` and `options`
        are gRPC's own, for what `tls` does not offer. `channel` is used as it is, in place of one to
        `target`: a gRPC channel with interceptors, or what a test puts in its place.
        """
        super().__init__(account)
        self.target = target
        credentials = credentials or credentials_of(tls)
        self._plain_channel = channel or open_async_channel(ChannelOptions(target, credentials, options))
        self._use(CallSettings(timeout, chosen_key(api_key)))

    def _use(self, settings: CallSettings) -> None:
        """Makes the stubs."""
        self._settings = settings
        self.channel = AsyncFriendlyChannel(self._plain_channel, settings)
        self.accounts = AccountServiceStub(self.channel)
        self.ingest = IngestServiceStub(self.channel)
        self.catalog = CatalogServiceStub(self.channel)
        self.journeys = JourneyServiceStub(self.channel)
        self.audiences = AudienceServiceStub(self.channel)
        self.connections = ConnectionServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)

    def with_timeout(self, timeout: float) -> Self:
        """A client with another timeout, in seconds, over the same connection. Make it once and keep it."""
        other = copy.copy(self)
        other._use(dataclasses.replace(self._settings, timeout_seconds=timeout))
        return other

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels running calls."""
        await self.channel.close()

    async def audience_name(self, target: str) -> str:
        """The name of an audience given by name, id, or its milestone; asks the service about a milestone."""
        name = self.target_name(target)
        if "/milestones/" not in name:
            return name
        return (await self.journeys.GetMilestone(GetMilestoneRequest(name=name))).milestone.audience

    # --- readiness ---

    async def is_serving(self, timeout: float = HEALTH_CALL_SECONDS) -> bool:
        """Whether the service reports SERVING within `timeout` seconds."""
        check: AsyncCall[bytes] = self._plain_channel.unary_unary(
            HEALTH_METHOD, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            return await check(THE_SERVER, timeout=timeout, wait_for_ready=True) == SERVING
        except grpc.RpcError:
            return False

    async def wait_until_serving(self, timeout: float) -> bool:
        """Waits until the service is SERVING. False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            if await self.is_serving(min(remaining, HEALTH_CALL_SECONDS)):
                return True
            await async_sleep(HEALTH_POLL_SECONDS)
        return False

    # --- pages and retries ---

    async def pages(self, method: AsyncCall[Any], request: Any) -> AsyncIterator[Any]:
        """Every page of a list method, as `client.pages(client.journeys.ListJourneys, request)`."""
        following = type(request)()
        following.CopyFrom(request)
        while True:
            page = await method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    async def write(self, method: AsyncCall[Answer], request: Any) -> Answer:
        """The answer of a method whose request has a request id: repeated under the same one while the
        service is unavailable, and applied once. Without an id the request gets one.
        """
        request.request_id = request.request_id or new_request_id()
        return await with_retry(lambda: method(request))


def given(**fields: object) -> dict[str, Any]:
    """The fields that the caller gave: those that are not None."""
    return {field: value for field, value in fields.items() if value is not None}


async def ensured(
    asked: Resource,
    get: AsyncCall[Resource],
    create: AsyncCall[Resource],
    update: AsyncCall[Resource],
) -> Resource:
    """What `get` finds, with the fields that `asked` sets brought to their values by `update`, which takes
    their mask; what `create` makes when there is nothing.
    """
    try:
        found = await get()
    except NotFound:
        try:
            return await create()
        except AlreadyExists:
            # Another caller created it first.
            found = await get()
    paths = [field.name for field, value in asked.ListFields() if not _has(found, field.name, value)]
    return await update(FieldMask(paths=paths)) if paths else found


def _has(found: Message, field: str, value: object) -> bool:
    # A message without fields equals one that is not set.
    is_set = not isinstance(value, Message) or found.HasField(field)
    return is_set and bool(getattr(found, field) == value)
