"""Work ends with its call: when the caller cancels it, at its deadline, or when a stop waits no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from engine.audiences.sizes import Sizes
from engine.deadline import check_deadline
from milepost.v1.account_service_pb2 import ListAccountsRequest
from milepost.v1.audience_service_pb2 import CountAudienceRequest
from service.deadlines import Deadlines
from service.stopping import RETRY_S_MIN, Stopping
from tests.harness import ACCOUNT, POLL_S, Serving, eventually, read_refusal, serving

THREADS = 2
REQUEST = CountAudienceRequest(name=f"{ACCOUNT}/audiences/x")


class Endless:
    """Counts that go on until their deadline says that they must not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        lock = threading.Lock()

        def count(_: Sizes, *_names: Any, deadline: float, **_others: Any) -> None:
            with lock:
                self.begun += 1
            while True:
                check_deadline(deadline)
                time.sleep(POLL_S)

        monkeypatch.setattr(Sizes, "count", count)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", worker_threads=THREADS, access_log="none") as running:
        running.create_inputs()
        yield running


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as end:
        call.result()
    return read_refusal(end.value).code


def test_cancelled_calls_free_their_threads(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run, and those that wait for a thread."""
    endless = Endless(monkeypatch)
    calls = [service.audiences.CountAudience.future(REQUEST) for _ in range(3 * THREADS)]
    eventually(lambda: endless.begun == THREADS)
    for call in calls:
        call.cancel()
    assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
    eventually(lambda: service.application.in_flight == 0)
    assert endless.begun <= len(calls)


def test_calls_end_at_their_deadline(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    Endless(monkeypatch)
    calls = [service.audiences.CountAudience.future(REQUEST, timeout=0.5) for _ in range(3 * THREADS)]
    assert {code_of(call) for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    eventually(lambda: service.application.in_flight == 0)


def test_a_call_without_a_deadline_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Endless(monkeypatch)
    with serving(tmp_path / "store", call_s_max=1.0, access_log="none") as service:
        with pytest.raises(grpc.RpcError) as end:
            service.audiences.CountAudience(REQUEST)
        refusal = read_refusal(end.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


def test_calls_beyond_the_grace_period_are_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that run, those that wait for a thread, and those that come while the service stops."""
    endless = Endless(monkeypatch)
    with serving(tmp_path / "store", worker_threads=THREADS, stop_grace_s=1.0, access_log="none") as service:
        calls = [service.audiences.CountAudience.future(REQUEST) for _ in range(3 * THREADS)]
        eventually(lambda: endless.begun == THREADS)
        stop = threading.Thread(target=service.application.stop)
        stop.start()
        eventually(service.application._server._stopping.is_set)
        calls.append(service.audiences.CountAudience.future(REQUEST))
        for call in calls:
            with pytest.raises(grpc.RpcError) as end:
                call.result()
            refusal = read_refusal(end.value)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            trailers = dict(cast(Any, end.value).trailing_metadata())
            assert int(trailers["grpc-retry-pushback-ms"]) >= RETRY_S_MIN * 1_000
        stop.join(60)
        assert not stop.is_alive()


def test_a_refusal_has_time_to_arrive() -> None:
    deadlines = Deadlines(call_s_max=60.0, stopping=Stopping())
    for remaining_s in (0.0, 0.005, 1.0, 59.0, 3_600.0):
        context: Any = SimpleNamespace(time_remaining=lambda: remaining_s, is_active=lambda: True)  # noqa: B023
        latest = time.monotonic() + min(remaining_s, 60.0)
        assert deadlines.of(context) <= latest - min(0.01, remaining_s / 10) + 0.001
