"""The standard health protocol.

The two messages have one field each, so they are encoded here rather than through another dependency.
"""

from __future__ import annotations

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
THE_SERVER = b""
"""`HealthCheckRequest` with an empty `service`: the server as a whole."""
SERVING = b"\x08\x01"
"""`HealthCheckResponse` with field 1, `status`, at 1, SERVING."""
