"""CatalogService: names and values in the data, and single users."""

from __future__ import annotations

import grpc

from engine.checks.rows import is_longer
from engine.errors import InvalidInput, NotFound
from engine.resources.names import Resource, check_name
from milepost.v1 import catalog_service_pb2 as pb
from milepost.v1 import catalog_service_pb2_grpc
from service.convert import catalog as convert
from service.convert.data import user_message
from service.handlers.runtime import Runtime


class CatalogHandlers(catalog_service_pb2_grpc.CatalogServiceServicer):
    """See catalog_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._catalog = runtime.engine.catalog

    def ListEventNames(
        self, request: pb.ListEventNamesRequest, context: grpc.ServicerContext
    ) -> pb.ListEventNamesResponse:
        page = self._catalog.event_names(
            request.parent,
            input=request.input,
            prefix=request.prefix,
            page_size=request.page_size,
            page_token=request.page_token,
            deadline=self._runtime.deadline(context),
        )
        return pb.ListEventNamesResponse(
            event_names=map(convert.event_name_message, page.items), next_page_token=page.next_page_token
        )

    def ListAttributes(
        self, request: pb.ListAttributesRequest, context: grpc.ServicerContext
    ) -> pb.ListAttributesResponse:
        page = self._catalog.attributes(
            request.parent,
            event_name=request.event_name,
            workspace=request.workspace,
            input=request.input,
            prefix=request.prefix,
            page_size=request.page_size,
            page_token=request.page_token,
            deadline=self._runtime.deadline(context),
        )
        return pb.ListAttributesResponse(
            attributes=map(convert.attribute_message, page.items), next_page_token=page.next_page_token
        )

    def ListAttributeValues(
        self, request: pb.ListAttributeValuesRequest, context: grpc.ServicerContext
    ) -> pb.ListAttributeValuesResponse:
        page = self._catalog.attribute_values(
            request.parent,
            request.key,
            event_name=request.event_name,
            input=request.input,
            prefix=request.prefix,
            page_size=request.page_size,
            page_token=request.page_token,
            deadline=self._runtime.deadline(context),
        )
        return pb.ListAttributeValuesResponse(
            values=map(convert.value_count_message, page.items), next_page_token=page.next_page_token
        )

    def GetUser(self, request: pb.GetUserRequest, context: grpc.ServicerContext) -> pb.GetUserResponse:
        check_name(request.parent, "parent", Resource.ACCOUNT)
        account = self._runtime.engine.accounts.get_account(request.parent)
        if not request.user_id:
            raise InvalidInput.one("user_id", "is required")
        bytes_max = self._runtime.engine.limits.name_bytes_max
        if is_longer(request.user_id, bytes_max):
            raise InvalidInput.one("user_id", f"is longer than {bytes_max} bytes")
        revision = self._runtime.revision()
        profile = self._runtime.engine.backend.profile(account.name, request.user_id)
        if profile is None:
            raise NotFound(f"{account.name}/users/{request.user_id}")
        return pb.GetUserResponse(user=user_message(profile), revision=revision)
