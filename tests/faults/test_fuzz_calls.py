"""Arbitrary calls of every method end as the contract says; the long form is `make fuzz-calls`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.fuzz_calls import campaign, fault_of
from tests.harness import Stubs

CALLS = 1_200


def test_no_call_ends_unknown_or_without_its_reason(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"--calls {CALLS} --seed {seed}")
    tally, figures = campaign(CALLS, seed, tmp_path)
    assert tally.faults == []
    assert sum(tally.codes.values()) == CALLS
    # Not all of them were refused for one reason.
    assert {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED"} <= tally.codes.keys()
    assert len(figures) == 10


def _unknown(_request: bytes, _context: grpc.ServicerContext) -> Any:
    raise RuntimeError("a defect")


def _without_reason(_request: bytes, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.NOT_FOUND, "no reason given")


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (_unknown, "ended UNKNOWN: Exception calling application: a defect"),
        (_without_reason, "NOT_FOUND without an ErrorInfo: no reason given"),
    ],
)
def test_such_calls_are_found(handler: Callable[..., Any], fault: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        method: Any = grpc.unary_unary_rpc_method_handler(handler)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("s", {"m": method})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stubs = Stubs(f"127.0.0.1:{port}")
        call: Any = stubs.channel.unary_unary("/s/m")
        with pytest.raises(grpc.RpcError) as failure:
            call(b"")
        stubs.close()
        server.stop(None).wait()
    assert fault_of(failure.value) == fault
