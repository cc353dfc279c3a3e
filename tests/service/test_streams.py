"""Streams of events: concurrent ones share a commit, and callers that do not read are throttled."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.backends.local.backend import LocalBackend
from engine.backends.local.storage.write_ahead_log import WriteAheadLog
from engine.ingest import ColumnBatch, Ingest, Ingested
from milepost.v1.admin_service_pb2 import GetServerInfoRequest, GetServerInfoResponse
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest, StreamEventsRequest
from service.convert.revisions import revision_token
from tests.harness import ACCOUNT, EVENTUALLY_S, INPUT, Serving, eventually, refusal_of, serving

STREAMS = 6

DEAF_BATCHES = 30
REFUSED_EVENTS = 10_000 - 1
"""Rejections that make one acknowledgement larger than a connection's initial window."""
UNREAD_MAX = 20
"""More acknowledgements of that size fit nowhere between a service and a caller that does not read them."""
OTHER_BATCHES = 300
LONG = Event(user_id="x" * 300)
"""Refused, and three megabytes a batch."""
NEVER_CHECKPOINTS: dict[str, Any] = {"checkpoint_records": 1_000_000, "checkpoint_s": 3_600.0}


def event(user_id: str) -> Event:
    made = Event(user_id=user_id, name="open")
    made.time.FromSeconds(1_750_000_000)
    return made


def batch(sequence: int, *events: Event) -> StreamEventsRequest:
    return StreamEventsRequest(
        sequence=sequence, batch=IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    )


def backend_of(service: Serving) -> LocalBackend:
    backend = service.application.engine.backend
    assert isinstance(backend, LocalBackend)
    return backend


def info_of(service: Serving) -> GetServerInfoResponse:
    return service.admin.GetServerInfo(GetServerInfoRequest())


def commits_of_the_log(service: Serving) -> int:
    """Commits that the file of the log has seen, each of them synced to the disk."""
    return int(backend_of(service)._log._environment._env.info()["last_txnid"])


def test_concurrent_streams_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the batch of the first stream is committed, the others send theirs: they share the next. The
    first commit may have more than one, when the writer is woken late.
    """
    groups: list[int] = []
    original = WriteAheadLog.append
    with serving(tmp_path / "store", access_log="none", **NEVER_CHECKPOINTS) as service:
        service.create_inputs()
        waiting = backend_of(service)._writer._waiting

        def append(log: WriteAheadLog, encoded: Sequence[bytes]) -> int:
            if not groups:
                eventually(lambda: len(waiting) == STREAMS - len(encoded))
            groups.append(len(encoded))
            return original(log, encoded)

        monkeypatch.setattr(WriteAheadLog, "append", append)
        before = commits_of_the_log(service)
        closing = threading.Event()

        def requests(stream: int) -> Iterator[StreamEventsRequest]:
            yield batch(stream, event(f"user-{stream}"))
            closing.wait(EVENTUALLY_S)

        calls = [service.ingest.StreamEvents(requests(stream)) for stream in range(STREAMS)]
        answers = [next(call) for call in calls]
        closing.set()
        assert (len(groups), sum(groups)) == (2, STREAMS)
        assert commits_of_the_log(service) == before + 2
        assert [answer.sequence for answer in answers] == list(range(STREAMS))
        store, signer = info_of(service).store_id, service.application.engine.signer
        assert {answer.result.revision for answer in answers} == {
            revision_token(store, revision, signer) for revision in range(1, STREAMS + 1)
        }
        assert info_of(service).events == STREAMS


def test_caller_that_ignores_acknowledgements_is_throttled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are not taken in beyond the few whose acknowledgements are on their way, others are not held
    up, and once the caller listens everything goes on where it was.
    """
    taken = 0
    original = Ingest.event_columns

    def event_columns(ingest: Ingest, account: str, columns: ColumnBatch, request_id: str) -> Ingested:
        nonlocal taken
        taken += 1
        return original(ingest, account, columns, request_id)

    # Batches as large as those of the deaf caller are taken by column.
    monkeypatch.setattr(Ingest, "event_columns", event_columns)
    sent = 0

    def requests() -> Iterator[StreamEventsRequest]:
        nonlocal sent
        for sequence in range(DEAF_BATCHES):
            sent += 1
            yield batch(sequence, event("deaf"), *[LONG] * REFUSED_EVENTS)

    # A reader would take in a few more.
    with serving(tmp_path / "store", readers=0, access_log="none", **NEVER_CHECKPOINTS) as service:
        service.create_inputs()
        deaf = service.ingest.StreamEvents(requests())
        eventually(lambda: taken > 0)
        # The batches of a reading caller are the clock: its stream is served too.
        others = (batch(number, event("other")) for number in range(OTHER_BATCHES))
        assert sum(answer.result.accepted for answer in service.ingest.StreamEvents(others)) == OTHER_BATCHES
        assert 0 < taken <= UNREAD_MAX
        assert taken <= sent <= UNREAD_MAX

        answers = [(answer.sequence, len(answer.result.rejections)) for answer in deaf]
        assert answers == [(sequence, REFUSED_EVENTS) for sequence in range(DEAF_BATCHES)]
        assert (taken, sent) == (DEAF_BATCHES, DEAF_BATCHES)
        assert info_of(service).events == DEAF_BATCHES + OTHER_BATCHES


def test_caller_that_does_not_read_loses_its_stream(tmp_path: Path) -> None:
    """Others have the thread then."""
    closing = threading.Event()

    def requests() -> Iterator[StreamEventsRequest]:
        for sequence in range(UNREAD_MAX):
            yield batch(sequence, *[LONG] * REFUSED_EVENTS)
        closing.wait(EVENTUALLY_S)

    with serving(tmp_path / "store", streams_max=1, stream_idle_s=1.0, access_log="none") as service:
        service.create_inputs()
        deaf = service.ingest.StreamEvents(requests())
        eventually(lambda: service.application.in_flight == 1)
        eventually(lambda: service.application.in_flight == 0)
        answers = service.ingest.StreamEvents(iter([batch(0, event("other"))]))
        assert [answer.result.accepted for answer in answers] == [1]
        closing.set()
        deaf.cancel()


@pytest.mark.parametrize("events", [0, 1, 100], ids=["none", "by row", "by column"])
def test_faults_of_a_batch_are_those_of_its_field_in_the_stream(tmp_path: Path, events: int) -> None:
    rows = [event("ann")] * events
    faulty = [
        IngestEventsRequest(parent="accounts/", input=INPUT, events=rows),
        IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=rows, request_id="x" * 257),
        IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[event("ann")] * 10_001),
    ]
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        for request in faulty:
            alone = refusal_of(service.ingest.IngestEvents, request)
            streamed = refusal_of(service.ingest.StreamEvents, iter([StreamEventsRequest(batch=request)]))
            assert alone.violations
            assert streamed.violations == {
                f"batch.{field}": description for field, description in alone.violations.items()
            }
            assert (streamed.code, streamed.reason) == (alone.code, alone.reason)
