"""Limits of keys and of accounts on a real server, and who sets them."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from milepost.v1 import account_pb2, account_service_pb2, ingest_service_pb2
from tests.harness import ACCOUNT, Refusal, eventually, read_refusal, refusal_of
from tests.service.auth.keyed import Caller, Keyed, keyed

get_account = account_service_pb2.GetAccountRequest(name=ACCOUNT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Keyed]:
    with keyed(tmp_path / "store") as made:
        made.operator.create_inputs()
        yield made


def test_calls_over_the_rate_are_refused_and_say_when_to_try_again(site: Keyed) -> None:
    caller = site.with_key(ACCOUNT, "k", "READ", calls_per_second_max=2)
    refused = None
    for _ in range(1_000):
        try:
            caller.accounts.GetAccount(get_account)
        except grpc.RpcError as error:
            refused = error
            break
    assert refused is not None
    refusal = read_refusal(refused)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.metadata == {"resource": f"{ACCOUNT}/apiKeys/k", "limit": "2"}
    retry = error_details_pb2.RetryInfo()
    assert isinstance(refused, grpc.Call)
    status = rpc_status.from_call(refused)
    assert status is not None
    assert [detail.Unpack(retry) for detail in status.details] == [False, True]
    assert timedelta() < retry.retry_delay.ToTimedelta() <= timedelta(seconds=0.5)
    # Other keys are not concerned.
    assert site.with_key(ACCOUNT, "other", "READ").accounts.GetAccount(get_account).account.name == ACCOUNT


class RunningStream:
    """A stream of events that has begun, and runs until it is closed."""

    def __init__(self, caller: Caller) -> None:
        self._batches: queue.SimpleQueue[ingest_service_pb2.StreamEventsRequest | None] = queue.SimpleQueue()
        self._answers = caller.ingest.StreamEvents(iter(self._batches.get, None))
        batch = ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT)
        self._batches.put(ingest_service_pb2.StreamEventsRequest(batch=batch))
        next(self._answers)

    def close(self) -> None:
        self._batches.put(None)
        assert list(self._answers) == []


def test_running_calls_over_the_limit_are_refused_until_one_ends(site: Keyed) -> None:
    sender = site.with_key(ACCOUNT, "k", "INGEST", in_flight_max=1)
    stream = RunningStream(sender)
    assert _limited(sender)
    stream.close()
    eventually(lambda: not _limited(sender))


def _limited(caller: Caller) -> bool:
    erase = ingest_service_pb2.DeleteUsersRequest(parent=ACCOUNT, user_ids=["ann"])
    try:
        caller.ingest.DeleteUsers(erase)
    except grpc.RpcError as error:
        return read_refusal(error).reason == "RATE_LIMITED"
    return False


def set_quotas(site: Keyed, **quotas: int) -> None:
    account = account_pb2.Account(name=ACCOUNT, quotas=account_pb2.AccountQuotas(**quotas))
    site.operator.accounts.UpdateAccount(account_service_pb2.UpdateAccountRequest(account=account))


def test_limits_of_an_account_hold_for_all_its_keys_together(site: Keyed) -> None:
    callers = [site.with_key(ACCOUNT, f"k{number}", "READ", "INGEST") for number in range(3)]
    set_quotas(site, calls_per_second_max=2, in_flight_max=1)
    refused = None
    for number in range(1_000):
        try:
            callers[number % 3].accounts.GetAccount(get_account)
        except grpc.RpcError as error:
            refused = read_refusal(error)
            break
    assert refused is not None
    assert (refused.reason, refused.metadata) == ("RATE_LIMITED", {"resource": ACCOUNT, "limit": "2"})
    # Operators are not concerned, and raise the limit again.
    for _ in range(5):
        site.operator.accounts.GetAccount(get_account)
    set_quotas(site, in_flight_max=1)
    stream = RunningStream(callers[0])
    assert _limited(callers[1])
    stream.close()
    eventually(lambda: not _limited(callers[1]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("calls_per_second_max", -1), ("calls_per_second_max", 1_000_001), ("in_flight_max", -1)],
)
def test_limits_out_of_range_are_refused(site: Keyed, field: str, value: int) -> None:
    limits: dict[str, Any] = {field: value}
    with pytest.raises(grpc.RpcError) as refused:
        site.operator.create_key(ACCOUNT, "k", "READ", **limits)
    assert list(read_refusal(refused.value).violations) == [f"api_key.{field}"]


def test_only_operators_set_limits_of_keys_and_make_operator_keys(site: Keyed) -> None:
    admin = site.with_key(ACCOUNT, "admin", "ADMIN")
    limits: tuple[dict[str, Any], ...] = ({"calls_per_second_max": 5}, {"in_flight_max": 5})
    for fields in limits:
        with pytest.raises(grpc.RpcError) as refused:
            admin.create_key(ACCOUNT, "more", "READ", **fields)
        assert read_refusal(refused.value).metadata == {"scope": "SCOPE_OPERATOR"}
        update = account_service_pb2.UpdateApiKeyRequest(
            api_key=account_pb2.ApiKey(name=f"{ACCOUNT}/apiKeys/admin", **fields),
            update_mask=FieldMask(paths=fields),
        )
        assert refusal_of(admin.accounts.UpdateApiKey, update).metadata == {"scope": "SCOPE_OPERATOR"}
        assert site.operator.accounts.UpdateApiKey(update).api_key.etag
    with pytest.raises(grpc.RpcError) as refused:
        admin.create_key("", "mine", "OPERATOR")
    assert read_refusal(refused.value).metadata == {"scope": "SCOPE_OPERATOR"}
    assert refusal_of(admin.accounts.ListApiKeys, account_service_pb2.ListApiKeysRequest()).metadata == {
        "scope": "SCOPE_OPERATOR"
    }
    name = account_service_pb2.GetApiKeyRequest(name="apiKeys/op")
    assert refusal_of(admin.accounts.GetApiKey, name).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("readers", [0, 1])
def test_calls_of_methods_that_do_not_exist_need_a_key_and_count(tmp_path: Path, readers: int) -> None:
    method = "/milepost.v1.AccountService/Nope"
    with keyed(tmp_path / "store", readers=readers) as made:
        made.operator.create_inputs()
        for secret in ("", "no-secret"):
            refused = _refused(made.caller(secret), method)
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        caller = made.with_key(ACCOUNT, "k", "READ", calls_per_second_max=2)
        refusals = [_refused(caller, method) for _ in range(100)]
        assert refusals[0].reason == "UNKNOWN_METHOD"
        limited = next(each for each in refusals if each.reason != "UNKNOWN_METHOD")
        assert (limited.reason, limited.metadata["resource"]) == ("RATE_LIMITED", f"{ACCOUNT}/apiKeys/k")


def _refused(caller: Caller, method: str) -> Refusal:
    channel: Any = caller.channel
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(b"")
    return read_refusal(refused.value)
