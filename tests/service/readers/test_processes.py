"""Readers as processes: replaced when they end, stopped before the service, gone when it is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.errors import StoreUnavailable
from milepost.v1 import account_service_pb2, audience_service_pb2
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from service.application import Application
from service.auth.listening import CannotListen
from service.config import Config
from service.interpreter import SWITCH_SECONDS
from service.readers import spare, supervisor
from service.readers.count import readers_for
from service.readers.shared_port import SOCKET_PATH_BYTES_MAX, SharedPort, WriterSocket
from tests.bench.process import children_of
from tests.harness import CALL_TIMEOUT_S, Refusal, Serving, Stubs, eventually, read_refusal, serving
from tests.service.delivery.test_delivery import build, connect, wait_for
from tests.service.readers.asking import GOLD, build_split, check

START_TIMEOUT_S = 120
CHECKS = 300
CHECKS_LOGGED = 100
SERVICE_CONFIG = files("milepost").joinpath("service_config.json").read_text(encoding="utf-8")


@contextmanager
def process(
    directory: Path, readers: int | None, *more_flags: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service with readers in a process of its own, and its address. None = as many as it starts itself."""
    flags = ["--data-dir", str(directory / "store"), "--port=0", "--log-format=json", *more_flags]
    environment = {name: value for name, value in os.environ.items() if name != "MILEPOST_READERS"}
    if readers is not None:
        flags.append(f"--readers={readers}")
    with subprocess.Popen(
        [sys.executable, "-m", "service", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line.startswith("ready address="), line
            yield child, line.strip().removeprefix("ready address=")
        finally:
            child.kill()


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def retrying(address: str) -> grpc.Channel:
    """A connection whose calls are repeated as the published service config says."""
    options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(address, options)


def test_a_killed_reader_is_replaced_and_no_repeated_call_fails(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=2, access_log="none") as service:
        build_split(service)
        before = service.application.reader_pids
        request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1")
        with retrying(service.address) as first, retrying(service.address) as second:
            for number in range(CHECKS):
                if number == CHECKS // 3:
                    os.kill(before[0], signal.SIGKILL)
                stub = AudienceServiceStub(second if number % 2 else first)
                assert stub.CheckMembership(request, timeout=CALL_TIMEOUT_S).member
        eventually(lambda: len(service.application.reader_pids) == len(before))
        assert before[0] not in service.application.reader_pids
        assert before[1] in service.application.reader_pids
        eventually(lambda: _all_answer(service))


def _all_answer(service: Serving) -> bool:
    for _ in range(8):
        with closing(Stubs(service.address)) as stubs:
            assert check(stubs, "u1")
    return True


def test_a_killed_reader_is_replaced_by_the_one_in_reserve(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=1, access_log="none") as service:
        build_split(service)
        application = service.application
        request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1")
        for _ in range(2):
            spare = eventually(lambda: application.spare_reader_pid or 0)
            (reader,) = application.reader_pids
            os.kill(reader, signal.SIGKILL)
            _wait_for_reader(service, spare)
            with retrying(service.address) as channel:
                stub = AudienceServiceStub(channel)
                assert stub.CheckMembership(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True).member
        # One that was lost in reserve is not given out.
        lost = eventually(lambda: application.spare_reader_pid or 0)
        os.kill(lost, signal.SIGKILL)
        os.kill(application.reader_pids[0], signal.SIGKILL)
        with retrying(service.address) as channel:
            stub = AudienceServiceStub(channel)
            assert stub.CheckMembership(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True).member


def _wait_for_reader(service: Serving, pid: int) -> None:
    """Waits until that is the only reader."""
    eventually(lambda: service.application.reader_pids == [pid])


def test_a_reader_that_is_told_to_end_finishes_its_calls_and_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=1, access_log="none") as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        (reader,) = service.application.reader_pids
        watching = service.audiences.WatchMembership(
            audience_service_pb2.WatchMembershipRequest(audience=audience, snapshot=True)
        )
        next(watching)
        os.kill(reader, signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            list(watching)
        refusal = read_refusal(ended.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        eventually(lambda: service.application.reader_pids not in ([], [reader]))
        with retrying(service.address) as channel:
            request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1")
            stub = AudienceServiceStub(channel)
            assert stub.CheckMembership(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True).member


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path, readers=2) as (service, address):
        readers = children_of(service.pid)
        assert len(readers) == 3, "two, and one in reserve"
        with closing(Stubs(address)) as stubs:
            stubs.create_inputs()
        service.send_signal(number)
        _, errors = service.communicate(timeout=START_TIMEOUT_S)
        assert service.returncode == 0, errors
        assert '"event": "stopped"' in errors.splitlines()[-1]
        assert not any(map(is_running, readers))
        assert not (tmp_path / "store" / "writer.sock").exists()


def test_a_reader_that_cannot_start_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "COMMAND", (sys.executable, "-c", "import sys; sys.exit(3)"))
    application = Application(Config(data_dir=tmp_path / "store", port=0, readers=1))
    try:
        with pytest.raises(StoreUnavailable, match=r"reader 1 ended 3 times before it served"):
            application.start()
    finally:
        application.stop()


def test_a_slow_reader_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_LOG_S", 0.01)
    with structlog.testing.capture_logs() as logs, serving(tmp_path / "store", readers=1) as service:
        assert service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest()) is not None
    assert "reader still starting" in {line["event"] for line in logs}


def test_a_line_of_a_reader_has_the_id_that_its_caller_gets(tmp_path: Path) -> None:
    with process(tmp_path, 1, "--access-log=all") as (service, address), closing(Stubs(address)) as stubs:
        request = audience_service_pb2.CheckMembershipRequest(audience=build(stubs), user_id="u1")
        connect(stubs, request.audience)
        check = stubs.audiences.CheckMembership
        given = []
        for number in range(CHECKS_LOGGED):
            # Once the membership is calculated, the reader answers.
            time.sleep(0.02)
            sent = (("x-request-id", f"check-{number}"),) if number % 2 else ()
            answer, call = check.with_call(request, metadata=sent, timeout=CALL_TIMEOUT_S)
            assert answer.member
            given.append(dict(call.trailing_metadata())["x-request-id"])
        service.send_signal(signal.SIGTERM)
        _, errors = service.communicate(timeout=START_TIMEOUT_S)
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    logged = [line["request_id"] for line in lines if line.get("method", "").endswith("/CheckMembership")]
    assert sorted(logged) == sorted(given)
    assert {f"check-{number}" for number in range(1, CHECKS_LOGGED, 2)} <= set(given)


def test_a_reader_shares_its_interpreter_like_the_service() -> None:
    code = "import sys; from service.readers import process; process.run(); print(sys.getswitchinterval())"
    # A reader that gets no first message ends.
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(SWITCH_SECONDS)


def test_a_service_starts_as_many_as_suit_the_machine(tmp_path: Path) -> None:
    expected = readers_for("local:store")
    with process(tmp_path, readers=None) as (service, _):
        assert len(children_of(service.pid)) == (expected + 1 if expected else 0), "one is in reserve"


def test_readers_end_when_the_service_is_killed(tmp_path: Path) -> None:
    with process(tmp_path, readers=2) as (service, _):
        readers = children_of(service.pid)
        assert len(readers) == 3, "two, and one in reserve"
        service.kill()
        eventually(lambda: not any(map(is_running, readers)))


def test_calls_are_refused_with_a_time_to_try_again_while_readers_stop(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=1, access_log="none", stop_grace_s=5.0) as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        states = health.Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=service.application.stop)
        stopping.start()
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert _first_refusal(service).code is grpc.StatusCode.UNAVAILABLE
        stopping.join()
        assert service.application.reader_pids == []


def _first_refusal(service: Serving) -> Refusal:
    try:
        while True:
            service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest())
    except grpc.RpcError as error:
        return read_refusal(error)


def test_the_writer_reports_through_readers_that_writes_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=2, access_log="none") as service:
        ingest = health_pb2.HealthCheckRequest(service="milepost.v1.IngestService")

        def state() -> int:
            health: Any = health_pb2_grpc.HealthStub(service.channel)
            return int(health.Check(ingest).status)

        assert state() == health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        service.application._write_watch.stop()
        service.application._server.report_writes(False)
        eventually(lambda: state() == not_serving)


def test_a_port_is_not_shared_with_another_service(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=1, access_log="none") as service:
        port = service.application.port
        for readers in (0, 1):
            with pytest.raises(CannotListen):
                Application(Config(data_dir=tmp_path / f"other-{readers}", port=port, readers=readers))
        assert service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest()) is not None
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        SharedPort("127.0.0.1", taken.getsockname()[1])


def test_a_socket_path_is_short_enough(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * SOCKET_PATH_BYTES_MAX)
    for directory in (tmp_path, deep):
        made = WriterSocket(directory)
        assert len(str(made.path).encode()) <= max(SOCKET_PATH_BYTES_MAX, len(str(tmp_path)) + 12)
        parent = made.path.parent
        made.close()
        assert parent.exists() == (parent == tmp_path)


def test_a_process_that_has_ended_may_leave_what_it_was_told() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    with spare.to_its_end(ended) as process:
        # It stays in the buffer until the input is closed.
        spare.input_of(process).write(b"too late")
        process.wait()
    assert process.returncode == 0
