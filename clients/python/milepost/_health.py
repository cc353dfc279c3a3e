"""Whether a service is ready, by the standard health protocol.

The two messages have one field each, so they are read here as bytes rather than through another dependency.
"""

from __future__ import annotations

import grpc

_METHOD = "/grpc.health.v1.Health/Check"
_EVERYTHING = b""
"""`HealthCheckRequest` with an empty `service`: the server as a whole."""
_SERVING = b"\x08\x01"
"""`HealthCheckResponse` with field 1, `status`, at 1, SERVING."""


def is_serving(channel: grpc.Channel, timeout_seconds: float) -> bool:
    """Whether the server as a whole is SERVING; waits for a connection up to the timeout."""
    check = channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)
    try:
        return check(_EVERYTHING, timeout=timeout_seconds, wait_for_ready=True) == _SERVING
    except grpc.RpcError:
        return False
