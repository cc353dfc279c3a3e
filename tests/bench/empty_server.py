"""A server with the service's own stack (threads, interceptor, options) whose handler does nothing.

python -m tests.bench.empty_server      # prints its address, serves until SIGTERM
"""

from __future__ import annotations

import signal
import threading

import grpc

from milepost.v1.audience_service_pb2 import CheckMembershipRequest, CheckMembershipResponse
from service.config import Config
from service.interceptors import CallInterceptor, Pools, Workers
from service.server import REFUSAL_THREADS, SERVER_OPTIONS

SERVICE = "milepost.v1.AudienceService"


def check_membership(
    request: CheckMembershipRequest, context: grpc.ServicerContext
) -> CheckMembershipResponse:
    """Answers no to everything."""
    return CheckMembershipResponse()


def main() -> None:
    """Serves until SIGTERM."""
    config = Config()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: stopping.set())
    pools = Pools(
        unary=Workers("unary", config.worker_threads, config.in_flight_max),
        streams=Workers("stream", config.streams_max, config.streams_max),
        imports=Workers("import", config.imports_max, config.imports_max),
        watchers=Workers("watcher", config.watchers_max, config.watchers_max),
        refusals=Workers("refusal", REFUSAL_THREADS, config.in_flight_max),
    )
    interceptor = CallInterceptor(
        pools,
        message_bytes_max=config.batch_bytes_max,
        access_log=config.access_log,
        slow_call_ms=config.slow_call_ms,
        stopping=stopping,
    )
    server = grpc.server(pools.unary, interceptors=[interceptor], options=SERVER_OPTIONS)
    method = grpc.unary_unary_rpc_method_handler(
        check_membership,
        request_deserializer=CheckMembershipRequest.FromString,
        response_serializer=CheckMembershipResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(SERVICE, {"CheckMembership": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    stopping.wait()
    server.stop(grace=None).wait()
    pools.shutdown()


if __name__ == "__main__":
    main()
