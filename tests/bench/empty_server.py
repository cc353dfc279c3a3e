"""A server with the service's own stack (threads, interceptor, options) whose handler does nothing.

python -m tests.bench.empty_server          # prints its address, serves until SIGTERM
python -m tests.bench.empty_server 1234     # shares that port with others
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from milepost.v1.audience_service_pb2 import (
    BatchCheckMembershipRequest,
    BatchCheckMembershipResponse,
    CheckMembershipRequest,
    CheckMembershipResponse,
)
from service.access_log import CallLog
from service.auth.gate import Gate
from service.auth.snapshot import KeySnapshot
from service.config import Config
from service.deaf_callers import DeafCallers
from service.interceptors import CallInterceptor
from service.interpreter import share_interpreter
from service.methods import Kind
from service.pools import Pools
from service.readers.server import READER_SERVER_OPTIONS
from service.reading import RequestReader
from service.server import SERVER_OPTIONS, connection_options
from service.stopping import Stopping
from service.telemetry.calls import CallMetrics, CallTelemetry
from service.telemetry.line_limit import LineLimit

SERVICE = "milepost.v1.AudienceService"


def check_membership(
    request: CheckMembershipRequest, context: grpc.ServicerContext
) -> CheckMembershipResponse:
    """Answers no to everything."""
    return CheckMembershipResponse()


def batch_check_membership(
    request: BatchCheckMembershipRequest, context: grpc.ServicerContext
) -> BatchCheckMembershipResponse:
    """Answers nothing."""
    return BatchCheckMembershipResponse()


def main() -> None:
    """Serves until SIGTERM."""
    share_interpreter()
    config = Config()
    stopping = Stopping()
    signal.signal(signal.SIGTERM, lambda signum, frame: stopping.set())
    pools = Pools.of(config)
    gate = Gate(
        lambda: 0,
        calls_per_second_max=config.key_calls_per_second_max,
        in_flight_max=config.key_in_flight_max,
        operator_slots_percent_max=config.operator_slots_percent_max,
    )
    gate.publish(KeySnapshot())
    interceptor = CallInterceptor(
        pools,
        gate,
        reader=RequestReader(config.batch_bytes_max, config.limits),
        stream_idle_s=config.stream_idle_s,
        deaf_callers=DeafCallers(config.stream_idle_s),
        log=CallLog(config.access_log, config.slow_call_ms, LineLimit(0)),
        stopping=stopping,
    )
    telemetry = CallTelemetry(CallMetrics(CollectorRegistry()))
    shared_port = next(iter(sys.argv[1:]), "0")
    options = SERVER_OPTIONS if shared_port == "0" else READER_SERVER_OPTIONS
    options = (*options, *connection_options(config))
    server = grpc.server(pools[Kind.UNARY], interceptors=[telemetry, interceptor], options=options)
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "CheckMembership": grpc.unary_unary_rpc_method_handler(
            check_membership,
            request_deserializer=CheckMembershipRequest.FromString,
            response_serializer=CheckMembershipResponse.SerializeToString,
        ),
        "BatchCheckMembership": grpc.unary_unary_rpc_method_handler(
            batch_check_membership,
            request_deserializer=BatchCheckMembershipRequest.FromString,
            response_serializer=BatchCheckMembershipResponse.SerializeToString,
        ),
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{shared_port}")
    pools.first_messages.start()
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    stopping.wait()
    server.stop(grace=None).wait()
    pools.shutdown()


if __name__ == "__main__":
    main()
