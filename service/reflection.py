"""Server reflection, in both of its versions.

grpcio-reflection has only v1alpha. Newer tools ask for v1 first. The two differ in the names of package and
service alone, so the same servicer answers both.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
METHOD = "ServerReflectionInfo"


def add_reflection(service_names: Sequence[str], server: grpc.Server) -> None:
    """Lets callers ask for the descriptors of these services, and of reflection itself."""
    servicer = reflection.ReflectionServicer((*service_names, *SERVICE_NAMES))
    for name in SERVICE_NAMES:
        method = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {METHOD: method}),))
