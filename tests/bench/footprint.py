"""Memory and disk usage of the loaded sample, once all of it is in the index."""

from __future__ import annotations

import time

from milepost.sample import dataset
from milepost.v1.admin_service_pb2 import GetStoreStatsRequest, GetStoreStatsResponse
from tests.bench.figures import Figure, Subject
from tests.bench.process import bytes_on_disk, status_bytes

BYTES_A_MB = 1_000_000
CHECKPOINT_WAIT_SECONDS = 120
"""The last checkpoint begins half a minute after the last batch."""
POLL_SECONDS = 0.5


def measure(subject: Subject) -> list[Figure]:
    """Memory of the process; bytes on disk per event, compared with the dataset's own compressed files, and
    by kind.
    """
    stats = _checkpointed(subject)
    disk_bytes = bytes_on_disk(subject.service.data)
    beside = _parquet_bytes() / stats.events
    kinds = sorted(stats.kinds, key=lambda kind: -kind.bytes)
    return [
        *resident(subject, "after the load"),
        Figure("memory at most (RSS)", status_bytes(subject.service.pid, "VmHWM") / BYTES_A_MB, "MB"),
        Figure("disk", disk_bytes / BYTES_A_MB, "MB"),
        Figure("disk an event", disk_bytes / stats.events, "bytes", beside, "Parquet files"),
        *(
            Figure(f"  of it {kind.kind}", kind.bytes / stats.events, "bytes")
            for kind in kinds
            if kind.bytes > stats.events / 10
        ),
        *(
            Figure(f"  of it the file of the {file.name}", file.disk_bytes / stats.events, "bytes")
            for file in stats.files
        ),
    ]


def resident(subject: Subject, when: str) -> list[Figure]:
    """Resident memory, and the part of it that is not mapped files, which the kernel reclaims on demand."""
    pid = subject.service.pid
    return [
        Figure(f"memory {when} (RSS)", status_bytes(pid, "VmRSS") / BYTES_A_MB, "MB"),
        Figure("  of it not mapped files", status_bytes(pid, "RssAnon") / BYTES_A_MB, "MB"),
    ]


def _checkpointed(subject: Subject) -> GetStoreStatsResponse:
    """Figures of the store, once the index has reached the latest state."""
    deadline = time.monotonic() + CHECKPOINT_WAIT_SECONDS
    while True:
        stats = subject.client.admin.GetStoreStats(GetStoreStatsRequest())
        if stats.checkpointed_revision == stats.revision:
            return stats
        if time.monotonic() > deadline:
            raise TimeoutError("the last checkpoint did not finish")
        time.sleep(POLL_SECONDS)


def _parquet_bytes() -> int:
    files = ("transactions", "campaigns", "coupon_redemptions", "demographics")
    return sum((dataset.data_files() / f"{name}.parquet").stat().st_size for name in files)
