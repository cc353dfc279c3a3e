"""What the loaded sample takes in memory and on disk."""

from __future__ import annotations

from pathlib import Path

from milepost.sample import dataset
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from tests.bench.figures import Figure, Subject
from tests.bench.process import status_bytes

BYTES_A_MB = 1_000_000
BYTES_A_BLOCK = 512


def measure(subject: Subject) -> list[Figure]:
    """Memory of the process; bytes on disk an event, beside those of the dataset's own compressed files."""
    disk_bytes = _bytes_on_disk(subject.service.data)
    events = subject.client.admin.GetServerInfo(GetServerInfoRequest()).events
    return [
        Figure("memory now (RSS)", status_bytes(subject.service.pid, "VmRSS") / BYTES_A_MB, "MB"),
        Figure("memory at most (RSS)", status_bytes(subject.service.pid, "VmHWM") / BYTES_A_MB, "MB"),
        Figure("disk", disk_bytes / BYTES_A_MB, "MB"),
        Figure("disk an event", disk_bytes / events, "bytes", _parquet_bytes() / events, "Parquet files"),
    ]


def _bytes_on_disk(directory: Path) -> int:
    """Blocks in use: the store's files are sparse, their length says little."""
    return sum(path.stat().st_blocks * BYTES_A_BLOCK for path in directory.rglob("*") if path.is_file())


def _parquet_bytes() -> int:
    files = ("transactions", "campaigns", "coupon_redemptions", "demographics")
    return sum((dataset.data_files() / f"{name}.parquet").stat().st_size for name in files)
