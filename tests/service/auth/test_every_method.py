"""Every method of the server, with a key of each scope and without one, answers as its rule says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from engine.resources.records import Scope
from service.auth.caller import IMPLIED
from service.auth.methods import RULES
from tests.clients.fake import methods
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, Refusal, read_refusal
from tests.service.auth.keyed import Caller, Keyed, keyed
from tests.walks import each_of

METHODS = {f"/{each.containing_service.full_name}/{each.name}": each for each in methods()}
OF_ACCOUNTS = [scope for scope in Scope if scope is not Scope.OPERATOR]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("scopes") / "store") as made:
        made.operator.create_inputs()
        yield made


@pytest.fixture(scope="module")
def callers(site: Keyed) -> dict[Scope, Caller]:
    """A caller with a key of each scope of an account."""
    return {scope: site.with_key(ACCOUNT, scope.value, scope.name) for scope in OF_ACCOUNTS}


def asked(channel: grpc.Channel, path: str) -> Refusal | None:
    """The refusal of an empty request, None when it is answered."""
    method = METHODS[path]
    form = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    call: Any = form(path, request_serializer=bytes, response_deserializer=bytes)
    try:
        answer = call(iter([b""]) if method.client_streaming else b"", timeout=CALL_TIMEOUT_S)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return read_refusal(error)
    return None


@each_of("path", sorted(METHODS))
def test_without_a_key_every_method_is_unauthenticated(site: Keyed, path: str) -> None:
    for channel in (site.service.channel, site.caller("mpk_unknown").channel):
        refusal = asked(channel, path)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


@each_of("path", sorted(METHODS))
def test_a_key_is_permitted_what_its_scope_permits(callers: dict[Scope, Caller], path: str) -> None:
    needed = RULES[path].scope
    assert needed is not None
    for scope, caller in callers.items():
        refusal = asked(caller.channel, path)
        code = None if refusal is None else refusal.code
        if needed in IMPLIED[scope]:
            assert code is not grpc.StatusCode.UNAUTHENTICATED
            # Keys without an account are for operators.
            if code is grpc.StatusCode.PERMISSION_DENIED:
                assert RULES[path].without_name is Scope.OPERATOR
        else:
            assert refusal is not None
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
            assert refusal.metadata == {"scope": f"SCOPE_{needed.name}"}
