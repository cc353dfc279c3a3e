"""CatalogService: single users."""

from __future__ import annotations

import grpc

from engine.errors import InvalidInput, NotFound
from engine.journeys.names import Resource, check_name
from milepost.v1 import catalog_service_pb2 as pb
from milepost.v1 import catalog_service_pb2_grpc
from service.convert.data import user_message
from service.handlers.runtime import Runtime


class CatalogHandlers(catalog_service_pb2_grpc.CatalogServiceServicer):
    """See catalog_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def GetUser(self, request: pb.GetUserRequest, context: grpc.ServicerContext) -> pb.GetUserResponse:
        check_name(request.parent, "parent", Resource.ACCOUNT)
        account = self._runtime.engine.accounts.get_account(request.parent)
        if not request.user_id:
            raise InvalidInput.one("user_id", "is required")
        revision = self._runtime.revision()
        profile = self._runtime.engine.backend.profile(account.name, request.user_id)
        if profile is None:
            raise NotFound(f"{account.name}/users/{request.user_id}")
        return pb.GetUserResponse(user=user_message(profile), revision=revision)
