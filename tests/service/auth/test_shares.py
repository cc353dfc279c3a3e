"""No account keeps another one out of a pool of calls, whatever the pool."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from engine.errors import LimitExceeded
from engine.resources.records import Account
from milepost.v1 import account_pb2, account_service_pb2
from service import pools
from service.methods import _KINDS, Kind
from service.slots import Holder, Slots, share_of
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, eventually, read_refusal
from tests.service.auth.keyed import Caller, Keyed, keyed

OTHER = "accounts/other"
SLOTS = 8
LIMITS = {"worker_threads": 4} | {
    f"{name}_max": SLOTS for name in ("in_flight", "streams", "imports", "exports", "watchers", "jobs")
}
ONE_OF_EACH = {Kind.UNARY: "/milepost.v1.AccountService/GetAccount"} | {
    kind: method for method, kind in _KINDS.items()
}
SCOPES = ("READ", "INGEST")


@pytest.fixture(params=[0, 1], ids=["writer", "reader"])
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyed]:
    monkeypatch.setattr(pools, "PROBES_MAX", SLOTS)
    with keyed(tmp_path / "store", readers=request.param, **LIMITS) as made:
        made.operator.create_inputs()
        made.operator.accounts.CreateAccount(
            account_service_pb2.CreateAccountRequest(account_id="other", account=account_pb2.Account())
        )
        yield made


class Silent:
    """A call that has begun and sends nothing: it holds a slot until it is closed."""

    def __init__(self, caller: Caller, method: str) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        channel: Any = caller.channel
        self._call: Any = channel.stream_stream(method)(
            iter(self._requests.get, None), timeout=CALL_TIMEOUT_S
        )

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return bool(self._call.done())

    def end(self) -> grpc.RpcError | None:
        """Ends the call without a message. Returns what it was refused with, unless it was answered."""
        self._requests.put(None)
        try:
            list(self._call)
        except grpc.RpcError as error:
            return error
        return None

    def close(self) -> None:
        self._call.cancel()


@contextmanager
def filled(callers: list[Caller], kind: Kind, share: int) -> Iterator[grpc.RpcError]:
    """Makes one silent call more than the share. Gives the refusal of that one; the others go on."""
    calls = [Silent(callers[number % len(callers)], ONE_OF_EACH[kind]) for number in range(share + 1)]
    eventually(lambda: any(call.is_over for call in calls))
    [over] = [call for call in calls if call.is_over]
    refusal = over.end()
    assert refusal is not None
    yield refusal
    for call in calls:
        call.close()


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_a_second_account_always_gets_a_slot(site: Keyed, kind: Kind) -> None:
    if kind is Kind.JOB:
        first, second = [site.operator], site.with_key("", "another", "OPERATOR")
        holder = "apiKeys/op"
    else:
        # All keys of an account count together.
        first = [site.with_key(ACCOUNT, name, *SCOPES) for name in ("one", "two")]
        second, holder = site.with_key(OTHER, "k", *SCOPES), ACCOUNT
    if kind is Kind.EXPORT and site.service.config.readers:
        # A reader waits for the message itself, where there are slots for streams of all kinds.
        waiting = [Silent(first[number % 2], ONE_OF_EACH[kind]) for number in range(2 * SLOTS)]
        assert is_heard(second, kind)
        assert not any(call.is_over for call in waiting)
        for call in waiting:
            call.close()
        return
    with filled(first, kind, SLOTS // 2) as refused:
        refusal = read_refusal(refused)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert refusal.metadata == {
            "quota": "quotas.slots_percent_max",
            "limit": str(SLOTS // 2),
            "count": str(SLOTS // 2),
            "pool": kind.value,
            "resource": holder,
        }
        assert retry_delay_s(refused) > 0
        assert is_heard(second, kind)


def is_heard(caller: Caller, kind: Kind) -> bool:
    """Whether a call gets a slot: what is wrong with it is the message that does not come."""
    answer = Silent(caller, ONE_OF_EACH[kind]).end()
    return answer is None or read_refusal(answer).code is not grpc.StatusCode.RESOURCE_EXHAUSTED


def retry_delay_s(error: grpc.RpcError) -> float:
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    return retry.retry_delay.ToTimedelta().total_seconds()


def test_an_operator_changes_the_share(site: Keyed) -> None:
    quotas = account_pb2.AccountQuotas(slots_percent_max=100)
    account = account_pb2.Account(name=ACCOUNT, quotas=quotas)
    site.operator.accounts.UpdateAccount(account_service_pb2.UpdateAccountRequest(account=account))
    caller = site.with_key(ACCOUNT, "k", *SCOPES)
    with filled([caller], Kind.IMPORT, SLOTS) as refused:
        assert read_refusal(refused).metadata == {"limit": str(SLOTS), "pool": "import"}
        assert retry_delay_s(refused) > 0


def test_a_share_is_of_a_hundred_percent_at_most(site: Keyed) -> None:
    account = account_pb2.Account(name=ACCOUNT, quotas=account_pb2.AccountQuotas(slots_percent_max=101))
    with pytest.raises(grpc.RpcError) as refused:
        site.operator.accounts.UpdateAccount(account_service_pb2.UpdateAccountRequest(account=account))
    assert list(read_refusal(refused.value).violations) == ["account.quotas.slots_percent_max"]


@pytest.mark.parametrize("most", [4, 16, 100, 5_000])
def test_room_is_left_however_many_accounts_take_all_they_can(most: int) -> None:
    slots = Slots("pool", most)
    for number in range(most):
        holder = Holder(f"accounts/{number}", 50)
        held = 0
        while not _is_refused(slots, holder):
            slots.take(holder)
            held += 1
        # A half, a third, a quarter and so on: nobody has more than who came before.
        assert held <= most // (number + 2) + 1
        assert held > 0 or slots.taken == most or number >= most.bit_length()
        if slots.taken == most:
            return


def _is_refused(slots: Slots, holder: Holder) -> bool:
    try:
        slots.check(holder)
    except LimitExceeded:
        return True
    return False


def test_a_share_is_one_slot_at_least() -> None:
    assert [share_of(50, slots) for slots in (1, 2, 3, 16)] == [1, 1, 1, 8]
    assert share_of(1, 10) == 1


def test_a_call_does_not_wait_behind_those_of_another_account(
    site: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = site.service.application.engine.accounts
    get, let_go = accounts.get_account, threading.Event()

    def slow(name: str) -> Account:
        if name == ACCOUNT:
            assert let_go.wait(CALL_TIMEOUT_S)
        return get(name)

    monkeypatch.setattr(accounts, "get_account", slow)
    greedy, other = site.with_key(ACCOUNT, "k", "READ"), site.with_key(OTHER, "k", "READ")
    own, others = (account_service_pb2.GetAccountRequest(name=name) for name in (ACCOUNT, OTHER))
    # As many as it may have at a time, and each holds a thread, or would.
    waiting = [greedy.accounts.GetAccount.future(own) for _ in range(SLOTS // 2)]
    pool = site.service.application._server._pools[Kind.UNARY]
    eventually(lambda: pool.slots.taken == SLOTS // 2)
    for _ in range(5):
        assert other.accounts.GetAccount(others).account.name == OTHER
    assert not any(call.done() for call in waiting)
    let_go.set()
    assert {call.result().account.name for call in waiting} == {ACCOUNT}
