"""Metrics over HTTP: every call is counted under its code, and the engine's figures are true."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import DataLoss, LimitExceeded
from engine.resources.accounts import Accounts
from milepost import Client
from milepost.criteria import event
from milepost.outputs import FileOutput
from milepost.v1 import (
    account_service_pb2,
    audience_service_pb2,
    data_pb2,
    ingest_service_pb2,
)
from tests.harness import ACCOUNT, INPUT, Serving, Stubs, eventually, refusal_of, serving

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(service: Serving) -> Samples:
    """Name and labels → value, of every sample."""
    url = f"http://{service.application.metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The value of the one sample with the name and these labels, 0 when there is none."""
    found = [
        number
        for (each, pairs), number in samples.items()
        if each == name and labels.items() <= dict(pairs).items()
    ]
    assert len(found) <= 1, found
    return found[0] if found else 0.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none", metrics_port=0, checkpoint_s=3_600.0) as running:
        yield running


def handled(samples: Samples, method: str, code: str) -> float:
    return value(samples, "grpc_server_handled_total", grpc_method=method, grpc_code=code)


def test_without_a_port_no_metrics_are_served(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        assert service.application.metrics_address is None
        assert "metrics" not in {thread.name for thread in threading.enumerate()}


def status_of(service: Serving, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            f"http://{service.application.metrics_address}{path}", timeout=30
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


INGEST = "/health/milepost.v1.IngestService"


def test_health_over_http_tells_reads_from_writes(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of(service, "/health") == (200, "SERVING\n")
    assert status_of(service, INGEST) == (200, "SERVING\n")
    for path in ("/health/milepost.v1.NoService", "/", "/metricsx", "/health/../metrics"):
        assert status_of(service, path) == (404, "NOT_FOUND\n"), path
    full = LimitExceeded("full", reason="STORE_FULL")
    monkeypatch.setattr(service.application._write_watch, "_fault", lambda: full)
    eventually(lambda: status_of(service, INGEST) == (503, "NOT_SERVING\n"))
    assert status_of(service, "/health")[0] == 200
    monkeypatch.undo()
    eventually(lambda: status_of(service, INGEST)[0] == 200)


def test_health_over_http_is_not_serving_while_calls_are_drained(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waits = threading.Event(), threading.Event()
    original = Accounts.get_account

    def held(accounts: Accounts, name: str) -> object:
        waits.set()
        assert gate.wait(60)
        return original(accounts, name)

    service.create_inputs()
    monkeypatch.setattr(Accounts, "get_account", held)
    call = service.accounts.GetAccount.future(account_service_pb2.GetAccountRequest(name="accounts/a"))
    assert waits.wait(60)
    stopping = threading.Thread(target=service.application.stop)
    stopping.start()
    eventually(lambda: status_of(service, "/health")[0] == 503)
    gate.set()
    assert call.result().account.name == "accounts/a"
    stopping.join(60)


def test_calls_are_counted_by_method_and_code(service: Serving) -> None:
    service.create_inputs()
    request = account_service_pb2.GetAccountRequest(name="accounts/a")
    for _ in range(3):
        service.accounts.GetAccount(request)
    refusal_of(service.accounts.GetAccount, account_service_pb2.GetAccountRequest(name="accounts/none"))
    refusal_of(service.accounts.GetAccount, account_service_pb2.GetAccountRequest(name="x"))
    refusal_of(service.channel.unary_unary("/milepost.v1.AccountService/CreateApiKey"), b"")
    # Stream: one that ends well.
    assert list(service.ingest.StreamEvents(iter(()))) == []
    samples = read(service)
    assert handled(samples, "GetAccount", "OK") == 3
    assert handled(samples, "GetAccount", "NOT_FOUND") == 1
    assert handled(samples, "GetAccount", "INVALID_ARGUMENT") == 1
    assert handled(samples, "StreamEvents", "OK") == 1
    labels = {"grpc_service": "milepost.v1.AccountService", "grpc_method": "GetAccount", "grpc_type": "unary"}
    assert value(samples, "grpc_server_handling_seconds_count", **labels) == 5
    assert value(samples, "grpc_server_handling_seconds_bucket", le="+Inf", **labels) == 5
    assert 0 < value(samples, "grpc_server_handling_seconds_sum", **labels) < 60
    # Those of create_inputs too.
    assert value(samples, "milepost_call_wait_seconds_count", pool="unary") >= 8
    assert value(samples, "milepost_call_wait_seconds_count", pool="stream") == 1


def test_names_of_unknown_methods_are_no_labels(service: Serving) -> None:
    for number in range(5):
        call: Any = service.channel.unary_unary(f"/milepost.v1.AccountService/Nope{number}")
        with pytest.raises(grpc.RpcError):
            call(b"")
    samples = read(service)
    assert handled(samples, "unknown", "UNIMPLEMENTED") == 5
    assert not [name for name, labels in samples if "Nope" in str(labels)]


def test_a_stream_that_its_caller_leaves_is_cancelled(service: Serving) -> None:
    service.create_inputs()
    closing = threading.Event()

    def endless() -> Iterator[ingest_service_pb2.StreamEventsRequest]:
        closing.wait(60)
        yield from ()

    call = service.ingest.StreamEvents(endless())
    eventually(lambda: service.application.in_flight == 1)
    call.cancel()
    closing.set()
    eventually(lambda: handled(read(service), "StreamEvents", "CANCELLED") == 1)


def test_a_refusal_by_a_full_pool_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    original = Accounts.get_account

    def held(accounts: Accounts, name: str) -> object:
        assert gate.wait(60)
        return original(accounts, name)

    with serving(tmp_path / "store", worker_threads=1, in_flight_max=1, metrics_port=0) as service:
        service.create_inputs()
        monkeypatch.setattr(Accounts, "get_account", held)
        request = account_service_pb2.GetAccountRequest(name="accounts/a")
        call = service.accounts.GetAccount.future(request)
        eventually(lambda: value(read(service), "milepost_calls_in_flight", pool="unary") == 1)
        assert refusal_of(service.accounts.GetAccount, request).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        samples = read(service)
        assert value(samples, "milepost_calls_refused_total", pool="unary") == 1
        assert value(samples, "milepost_calls_in_flight_max", pool="unary") == 1
        assert handled(samples, "GetAccount", "RESOURCE_EXHAUSTED") == 1
        gate.set()
        call.result()


def ingest(service: Stubs, users: int, name: str = "open") -> None:
    events = [data_pb2.Event(user_id=f"u{number}", name=name) for number in range(users)]
    for each in events:
        each.time.GetCurrentTime()
    service.ingest.IngestEvents(
        ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    )


def test_figures_of_the_store(service: Serving) -> None:
    service.create_inputs()
    before = read(service)
    assert (value(before, "milepost_users"), value(before, "milepost_events")) == (0, 0)
    ingest(service, 7)
    samples = read(service)
    assert (value(samples, "milepost_users"), value(samples, "milepost_events")) == (7, 7)
    assert value(samples, "milepost_revision") > value(before, "milepost_revision")
    assert value(samples, "milepost_log_unwritten_records") == 7
    assert value(samples, "milepost_log_unwritten_bytes") > 0
    assert value(samples, "milepost_log_commit_seconds_count") >= 1
    assert value(samples, "milepost_writes_accepted") == 1
    assert value(samples, "milepost_measures_complete") == 1
    assert value(samples, "milepost_clock_settled") == 1
    assert value(samples, "milepost_cache_bytes", cache="pages") > 0
    assert value(samples, "milepost_cache_limit_bytes", cache="pages") >= 24 << 20
    assert value(samples, "milepost_file_bytes", file="index") > 0
    assert value(samples, "milepost_checkpoint_seconds_count") == 0
    backend = service.application.engine.backend
    backend.checkpoint()  # type: ignore[attr-defined]
    samples = read(service)
    assert value(samples, "milepost_checkpoint_seconds_count") == 1
    assert value(samples, "milepost_log_unwritten_records") == 0
    assert value(samples, "milepost_log_unwritten_bytes") == 0


def test_a_failed_checkpoint_is_counted(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    service.create_inputs()
    ingest(service, 3)
    backend = service.application.engine.backend

    def full(*_: object) -> None:
        raise LimitExceeded("full", reason="STORE_FULL")

    state = backend._state  # type: ignore[attr-defined]
    monkeypatch.setattr(state, "write", full)
    with pytest.raises(LimitExceeded):
        backend.checkpoint()  # type: ignore[attr-defined]
    samples = read(service)
    assert value(samples, "milepost_checkpoint_failures_total") == 1
    assert value(samples, "milepost_writes_accepted") == 0
    assert value(samples, "milepost_log_unwritten_bytes") > 0
    monkeypatch.undo()
    backend.checkpoint()  # type: ignore[attr-defined]
    assert value(read(service), "milepost_writes_accepted") == 1


def activate(service: Serving, path: str) -> None:
    """A milestone of users with an event, and a file output."""
    with Client(service.address, account="a") as client:
        client.ensure_journey("j")
        client.ensure_milestone("j", "m", criteria=event("open").happened())
        output = client.ensure_output("o", FileOutput(path=path))
        client.ensure_connection("c", target="j/m", output=output.name)
        client.activate_connection("c")


def test_refreshes_and_deliveries(service: Serving) -> None:
    service.create_inputs()
    ingest(service, 5)
    activate(service, "f")
    eventually(lambda: len(service.delivered("f", "c")) == 5)
    eventually(lambda: value(read(service), "milepost_delivery_pending_changes", kind="file") == 0)
    samples = read(service)
    assert value(samples, "milepost_connections", state="active") == 1
    assert value(samples, "milepost_delivery_connections") == 1
    assert value(samples, "milepost_delivery_changes_total", kind="file") == 5
    assert value(samples, "milepost_delivery_changes_total", kind="kafka") == 0
    assert value(samples, "milepost_delivery_failures_total", kind="file") == 0
    assert value(samples, "milepost_refresh_seconds_count") >= 1
    assert value(samples, "milepost_journeys_live") == 1
    assert value(samples, "milepost_journeys_calculating") == 0
    assert 0 <= value(samples, "milepost_refresh_lag_seconds") < 60
    with Client(service.address, account="a") as client:
        client.deactivate_connection("c")
    # What is not refreshed any more is not behind.
    eventually(lambda: value(read(service), "milepost_journeys_live") == 0)
    samples = read(service)
    assert value(samples, "milepost_refresh_lag_seconds") == 0
    assert value(samples, "milepost_connections", state="active") == 0
    assert value(samples, "milepost_connections", state="inactive") == 1


def test_an_output_that_fails_shows_as_failures_and_lag(service: Serving) -> None:
    service.create_inputs()
    ingest(service, 5)
    # A file where the output needs a directory.
    folder = service.outputs / "a"
    folder.mkdir(parents=True)
    (folder / "f").write_text("in the way")
    activate(service, "f")
    eventually(lambda: value(read(service), "milepost_delivery_failures_total", kind="file") >= 1)
    samples = read(service)
    assert value(samples, "milepost_delivery_pending_changes", kind="file") == 5
    assert value(samples, "milepost_delivery_lag_seconds", kind="file") > 0


def test_process_and_build(service: Serving) -> None:
    samples = read(service)
    assert value(samples, "process_resident_memory_bytes") > 1 << 20
    assert value(samples, "process_open_fds") > 3
    [labels] = [dict(labels) for name, labels in samples if name == "milepost_build_info"]
    assert labels["backend"] == "local"
    assert labels["version"]


def test_metrics_of_a_damaged_store_are_what_can_be_read(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise DataLoss("damaged")

    monkeypatch.setattr(service.application.engine.backend, "stats", damaged)
    samples = read(service)
    assert value(samples, "milepost_measures_complete") == 0
    assert value(samples, "milepost_calls_in_flight_max", pool="unary") == 1_000


LABELS_MAX = 40


def test_no_label_holds_what_callers_choose(service: Serving) -> None:
    service.create_inputs()
    ingest(service, 3)
    activate(service, "f")
    eventually(lambda: len(service.delivered("f", "c")) == 3)
    request = audience_service_pb2.CheckMembershipRequest(
        audience=f"{ACCOUNT}/journeys/j/milestones/m", user_id="u1"
    )
    assert service.audiences.CheckMembership(request).member
    samples = read(service)
    values = {text for _, labels in samples for name, text in labels if name != "le"}
    assert not [
        text for text in values if text in ("u1", "f", "c", "a", "o", "j", "m") or "accounts/" in text
    ]
    per_name: dict[str, set[str]] = {}
    for _, labels in samples:
        for name, text in labels:
            if name not in ("le", "grpc_method", "grpc_service"):
                per_name.setdefault(name, set()).add(text)
    assert {name: len(texts) for name, texts in per_name.items() if len(texts) > LABELS_MAX} == {}


def test_a_port_in_use_is_refused(tmp_path: Path, service: Serving) -> None:
    assert service.application.metrics_address is not None
    port = int(service.application.metrics_address.rpartition(":")[2])
    with (
        pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{port}"),
        serving(tmp_path / "other", metrics_port=port),
    ):
        pass
    # Nothing of the failed start keeps the store.
    with serving(tmp_path / "other"):
        pass


PAGE = (Path(__file__).resolve().parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_the_page_on_monitoring_lists_every_metric(service: Serving) -> None:
    service.create_inputs()
    table = PAGE.partition("<!-- metrics")[2].partition("<!-- end -->")[0]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)
    url = f"http://{service.application.metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    served = {}
    for family in families:
        if family.name.startswith("process_"):
            continue
        # The parser takes the suffix from the name of a counter, and gives samples of creation a family.
        name = family.name + ("_total" if family.type == "counter" else "")
        names = sorted({key for sample in family.samples for key in sample.labels} - {"le"})
        served[name] = (family.type, family.documentation, names)
    documented = {}
    for name, kind, meaning in listed:
        text, _, labels = re.sub(r"\. Labels? ", ".|", meaning).partition("|")
        documented[name] = (kind, text, sorted(re.findall(r"`(\w+)`", labels)))
    assert {name: each for name, each in served.items() if not name.endswith("_created")} == documented
