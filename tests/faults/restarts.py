"""A service under load is stopped and started again on the same port.

    python -m tests.faults.restarts --rounds 200 --readers 1

1. The service is a separate process. Callers read with the published retry policy, all the time; others write
   and read without one; others keep streams open.
2. SIGTERM, and a new service on the same port and store. Once a round.
3. Calls with the policy have all succeeded. Those without ended with OK or UNAVAILABLE, streams too, and a
   refusal by the service says why and when to try again. Nothing was CANCELLED.
4. What was acknowledged is there, once.

A fault is an AssertionError, which ends the rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from milepost._channel import service_config
from milepost.cli.service_process import ServiceProcess
from milepost.v1.account_service_pb2 import GetAccountRequest, ListInputsRequest
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from milepost.v1.catalog_service_pb2 import ListEventNamesRequest
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest, StreamEventsRequest
from service.stopping import RETRY_S_MIN
from tests.harness import ACCOUNT, INPUT, POLL_S, WORKSPACE, Stubs, eventually

ROUNDS = 20
PROGRESS_S = 10.0
CALL_S_MAX = 120.0
PROGRESS_CALLS = 5
"""Answers that every caller gets from each service before that is stopped."""
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
READERS = ("get", "list", "names")
"""Callers with the published policy."""
WATCHER = "health"
FLAGS = ("--log-level", "error", "--worker-threads", "4")


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    assert isinstance(error, grpc.Call)
    return error.code()


class Load:
    """Callers in threads of their own, and how their calls ended."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.codes: dict[str, Counter[grpc.StatusCode]] = {}
        self.refusals: list[grpc.RpcError] = []
        self._threads: list[threading.Thread] = []

    def add(self, name: str, call: Callable[[], Any]) -> None:
        """Calls again and again."""
        counts = self.codes.setdefault(name, Counter())

        def run() -> None:
            while not self.over.is_set():
                try:
                    call()
                    counts[grpc.StatusCode.OK] += 1
                except grpc.RpcError as error:
                    counts[code_of(error)] += 1
                    self.refusals.append(error)
                    time.sleep(POLL_S)

        self._threads.append(threading.Thread(target=run, name=name))
        self._threads[-1].start()

    def join(self, *without: str) -> None:
        """Ends the callers, without some of them, after their current call."""
        self.over.set()
        for thread in self._threads:
            if thread.name not in without:
                thread.join(CALL_S_MAX)
                assert not thread.is_alive(), thread.name


class Writer:
    """Writes events, and counts those that were acknowledged."""

    def __init__(self, stubs: Stubs, name: str) -> None:
        self._stubs = stubs
        self._name = name
        self.sent = 0
        self.acknowledged: list[str] = []

    def _batch(self) -> tuple[IngestEventsRequest, str]:
        self.sent += 1
        event_id = f"{self._name}-{self.sent}"
        event = Event(user_id=self._name, name="open", event_id=event_id)
        event.time.FromSeconds(1_750_000_000 + self.sent)
        return IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[event]), event_id

    def write(self) -> None:
        """One batch in one call."""
        batch, event_id = self._batch()
        assert self._stubs.ingest.IngestEvents(batch, timeout=CALL_S_MAX).accepted == 1
        self.acknowledged.append(event_id)

    def stream(self, over: threading.Event) -> None:
        """Batches in one stream, until it ends."""
        sent: list[str] = []

        def batches() -> Iterator[StreamEventsRequest]:
            while not over.is_set():
                batch, event_id = self._batch()
                sent.append(event_id)
                yield StreamEventsRequest(sequence=len(sent) - 1, batch=batch)

        for answer in self._stubs.ingest.StreamEvents(batches(), timeout=CALL_S_MAX):
            assert answer.result.accepted == 1
            self.acknowledged.append(sent[answer.sequence])


def published(target: str) -> Stubs:
    """Stubs that have the published policy, and nothing else of the Python client."""
    stubs = Stubs(target)
    stubs.channel.close()
    stubs.channel = grpc.insecure_channel(
        target, [("grpc.service_config", service_config()), ("grpc.use_local_subchannel_pool", 1)]
    )
    return stubs


def plain(target: str) -> Stubs:
    """Stubs that try nothing again."""
    stubs = Stubs(target)
    stubs.channel.close()
    stubs.channel = grpc.insecure_channel(
        target, [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    )
    return stubs


def is_answered(error: grpc.RpcError) -> bool:
    """Whether the service itself refused the call. Then it says why, and when to try again. Otherwise the
    connection ended, or there was none.
    """
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    if status is None:
        return False
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "STORE_UNAVAILABLE"
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() >= 1_000 * RETRY_S_MIN
    return True


def add_callers(load: Load, target: str) -> list[Writer]:
    """All kinds of callers. Returns those that write."""
    account, inputs = GetAccountRequest(name=ACCOUNT), ListInputsRequest(parent=WORKSPACE)
    names, info = ListEventNamesRequest(parent=ACCOUNT), GetServerInfoRequest()
    readers, others = [published(target) for _ in READERS], [plain(target) for _ in range(5)]
    load.add("get", lambda: readers[0].accounts.GetAccount(account, timeout=CALL_S_MAX))
    load.add("list", lambda: readers[1].accounts.ListInputs(inputs, timeout=CALL_S_MAX))
    load.add("names", lambda: readers[2].catalog.ListEventNames(names, timeout=CALL_S_MAX))
    load.add("plain", lambda: others[0].accounts.GetAccount(account, timeout=CALL_S_MAX))
    load.add("info", lambda: others[1].admin.GetServerInfo(info, timeout=CALL_S_MAX))
    writers = [Writer(others[2], "writer"), Writer(others[3], "streamer")]
    load.add("write", writers[0].write)
    load.add("stream", lambda: writers[1].stream(load.over))
    health: Any = health_pb2_grpc.HealthStub(others[4].channel)
    load.add(WATCHER, lambda: list(health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S_MAX)))
    return writers


def wait_for_progress(load: Load, writers: list[Writer]) -> None:
    """Returns once every caller was answered by the service that runs now."""
    calls = {name: load.codes[name][grpc.StatusCode.OK] for name in (*READERS, "plain", "info")}
    written = [(writer, len(writer.acknowledged)) for writer in writers]
    eventually(
        lambda: (
            all(load.codes[name][grpc.StatusCode.OK] >= calls[name] + PROGRESS_CALLS for name in calls)
            and all(len(writer.acknowledged) >= before + PROGRESS_CALLS for writer, before in written)
        )
    )


def play(directory: Path, *, readers: int, rounds: int) -> Load:
    """Restarts the service that often and returns how the calls ended."""
    # 1.
    store, flags = directory / "store", (*FLAGS, "--readers", str(readers))
    service, load = ServiceProcess(store, flags=flags), Load()
    service.start()
    try:
        port = int(service.target.rpartition(":")[2])
        plain(service.target).create_inputs()
        writers = add_callers(load, service.target)
        # 2.
        printed = time.monotonic()
        for number in range(1, rounds + 1):
            wait_for_progress(load, writers)
            status = service.stop()
            assert status == 0, status
            service = ServiceProcess(store, port=port, flags=flags)
            service.start()
            if time.monotonic() - printed > PROGRESS_S or number == rounds:
                printed = time.monotonic()
                print(
                    f"{number} restarts, {sum(map(Counter.total, load.codes.values())):,} calls", flush=True
                )
        wait_for_progress(load, writers)
        load.join(WATCHER)
        events = plain(service.target).admin.GetServerInfo(GetServerInfoRequest()).events
    finally:
        load.over.set()
        status = service.stop()
        load.join()
    assert status == 0
    # 3.
    for name, counts in load.codes.items():
        allowed = {grpc.StatusCode.OK} if name in READERS else ALLOWED
        assert set(counts) <= allowed, load.codes
    assert load.codes[WATCHER][grpc.StatusCode.UNAVAILABLE] > rounds
    assert [error for error in load.refusals if is_answered(error)]
    # 4.
    acknowledged = sum(len(writer.acknowledged) for writer in writers)
    assert acknowledged <= events <= sum(writer.sent for writer in writers)
    return load


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.restarts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many restarts (default %(default)s)")
    parser.add_argument("--readers", type=int, default=0, help="reader processes (default %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="milepost-restarts-") as directory:
        load = play(Path(directory), readers=options.readers, rounds=options.rounds)
    for name, counts in load.codes.items():
        print(f"{name:8}", *(f"{code.name} {count:,}" for code, count in counts.most_common()), sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
