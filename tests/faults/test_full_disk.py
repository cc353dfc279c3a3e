"""A service whose files cannot grow until there is space again.

Each test sends batches of one event for each of `USERS` users until one is refused. So the number of
acknowledged batches equals the number of events of every user, and a partial or repeated batch would show.

- The log or the index cannot grow: a limit on the size of the process's files (RLIMIT_FSIZE), set and lifted
at run time, acts like a full disk.
- The map is full: `--map-bytes` is small, and larger after a restart.
"""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import event
from milepost.data import make_event
from milepost.errors import ResourceExhausted
from milepost.v1.admin_service_pb2 import GetStoreStatsRequest, VerifyStoreRequest
from milepost.v1.audience_service_pb2 import MilestoneDraft
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA
from tests.harness import eventually

USERS = 40
FILLER_BYTES = 300
BATCHES_MAX = 5_000
"""A guard: a test that never fills up has an ineffective limit."""
ROOM_BYTES = 128 * 1024
NOON = datetime(2025, 6, 15, 12, tzinfo=UTC)

INDEX_IS_FULL = "the store is full: its log cannot be checkpointed"

QUIET = ("--log-level", "error")
NEVER_CHECKPOINTS = ("--checkpoint-s", "100000", "--checkpoint-records", "100000000")
CHECKPOINTS_OFTEN = ("--checkpoint-s", "0.05")


class Site:
    """A service on the store of a test, and how many batches it has acknowledged."""

    def __init__(self, service: ServiceProcess, acknowledged: int) -> None:
        self.service = service
        self.client = Client(service.target, account="a")
        self.acknowledged = acknowledged
        self.refusal = ""
        self._drawn = random.Random(acknowledged)

    def send(self) -> None:
        """Sends one more batch with a unique id; raises the service's refusal."""
        number = self.acknowledged
        events = [
            make_event(
                f"user-{user}",
                "buy",
                NOON,
                {"filler": self._drawn.randbytes(FILLER_BYTES // 2).hex()},
                event_id=f"{number}/{user}",
            )
            for user in range(USERS)
        ]
        sent = self.client.ingest_events(
            events, input=self.client.input_name("w/i"), request_id=f"batch-{number}", concurrency=1
        )
        assert (sent.accepted, sent.duplicates, sent.rejected) == (USERS, 0, 0)
        self.acknowledged += 1

    def send_until_refused(self) -> None:
        """Sends batches until the store is full."""
        for _ in range(BATCHES_MAX):
            if not self.can_send():
                return
        raise AssertionError("nothing was refused")

    def can_send(self) -> bool:
        """Whether a batch is accepted now; a refusal must be due to a full store."""
        try:
            self.send()
        except ResourceExhausted as refusal:
            if refusal.reason != "STORE_FULL":
                raise
            self.refusal = refusal.message
            return False
        return True

    def check_answers(self) -> None:
        """Every user has exactly one event for each acknowledged batch."""
        criteria = event("buy").count().equals(self.acknowledged)
        draft = MilestoneDraft(
            journey=self.client.journey_name("counting"), kind=MILESTONE_KIND_CRITERIA, criteria=criteria
        )
        estimate = self.client.estimate(draft, exact=True)
        assert estimate.size.users == USERS, f"{self.acknowledged} batches"
        assert set(self.client.list_members("j/buyers")) == {f"user-{user}" for user in range(USERS)}
        assert self.client.check("user-7", "j/buyers")
        stats = self.client.admin.GetStoreStats(GetStoreStatsRequest())
        assert (stats.users, stats.events) == (USERS, USERS * self.acknowledged)

    def check_soundness(self) -> None:
        """Nothing that is stored is torn."""
        *_, last = self.client.admin.VerifyStore(VerifyStoreRequest())
        assert last.result.faults == 0

    def file_bytes(self, part: str) -> int:
        """Size of a file of the store."""
        return (self.service.data / part / "data.mdb").stat().st_size

    def limit_files(self, limit: int) -> None:
        """Sets the maximum size of the service's files."""
        _, hard = resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE, (limit, hard))


@contextlib.contextmanager
def running(store: Path, *flags: str, acknowledged: int = 0) -> Iterator[Site]:
    with ServiceProcess(store, flags=(*QUIET, *flags)) as service:
        site = Site(service, acknowledged)
        with site.client as client:
            if not acknowledged:
                client.ensure_account()
                client.ensure_workspace("w")
                client.ensure_input("w", "i")
                client.ensure_journey("counting")
                client.ensure_journey("j")
                client.ensure_milestone("j", "buyers", criteria=event("buy").count() >= 1)
            yield site


def check_health(site: Site, *, writes: bool) -> None:
    """Health tells reads from writes, once it has noticed."""
    health: Any = health_pb2_grpc.HealthStub(grpc.insecure_channel(site.service.target))
    serving = HealthCheckResponse.SERVING

    def is_noticed() -> bool:
        status = health.Check(HealthCheckRequest(service="milepost.v1.IngestService")).status
        # A full log counts as full for some seconds after an attempt.
        return bool((status == serving) is writes and site.can_send() is writes)

    eventually(is_noticed)
    for service in ("", "milepost.v1.AudienceService"):
        assert health.Check(HealthCheckRequest(service=service)).status == serving


def test_writes_resume_when_the_log_can_grow_again(tmp_path: Path) -> None:
    with running(tmp_path / "store", *NEVER_CHECKPOINTS) as site:
        site.send()
        site.limit_files(max(site.file_bytes("log"), site.file_bytes("index")) + ROOM_BYTES)
        site.send_until_refused()
        site.check_answers()
        # Refused again, and answered again: nothing of a refused batch is there.
        site.send_until_refused()
        site.check_answers()
        check_health(site, writes=False)
        site.limit_files(resource.RLIM_INFINITY)
        for _ in range(3):
            site.send()
        check_health(site, writes=True)
        site.check_answers()
        acknowledged = site.acknowledged
        site.service.kill()
    with running(tmp_path / "store", acknowledged=acknowledged) as site:
        site.check_answers()
        site.check_soundness()


def test_writes_resume_when_the_index_can_grow_again(tmp_path: Path) -> None:
    with running(tmp_path / "store", *CHECKPOINTS_OFTEN) as site:
        grow_the_index(site)
        site.limit_files(site.file_bytes("index") + ROOM_BYTES)
        site.send_until_refused()
        assert site.refusal == INDEX_IS_FULL
        site.check_answers()
        assert not site.can_send()
        check_health(site, writes=False)
        site.limit_files(resource.RLIM_INFINITY)
        # What the log holds is checkpointed by the next attempt, after which writes are taken.
        eventually(site.can_send)
        check_health(site, writes=True)
        for _ in range(3):
            site.send()
        site.check_answers()
        site.check_soundness()


def test_kill_while_the_index_cannot_grow(tmp_path: Path) -> None:
    with running(tmp_path / "store", *CHECKPOINTS_OFTEN) as site:
        grow_the_index(site)
        site.limit_files(site.file_bytes("index") + ROOM_BYTES)
        site.send_until_refused()
        assert site.refusal == INDEX_IS_FULL
        acknowledged = site.acknowledged
        site.service.kill()
    with running(tmp_path / "store", acknowledged=acknowledged) as site:
        site.check_answers()
        site.send()
        site.check_answers()
        site.check_soundness()


def grow_the_index(site: Site) -> None:
    """The limit is one for all files: the index, being the longer one, will be the first to meet it."""
    while site.file_bytes("index") < site.file_bytes("log") + 2 * ROOM_BYTES:
        site.send()


@pytest.mark.parametrize("flags", [NEVER_CHECKPOINTS, CHECKPOINTS_OFTEN], ids=["log", "index"])
def test_full_map_can_be_enlarged_by_a_restart(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with running(tmp_path / "store", "--map-bytes", str(2 << 20), *flags) as site:
        site.send_until_refused()
        site.check_answers()
        acknowledged = site.acknowledged
    with running(tmp_path / "store", "--map-bytes", str(64 << 20), acknowledged=acknowledged) as site:
        site.check_answers()
        site.send()
        site.check_answers()
        site.check_soundness()
