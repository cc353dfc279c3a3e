"""Sends data in batches: a few at a time, each again under its own request id when the connection fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message

from milepost.errors import DeadlineExceeded, InvalidArgument, MilepostError, Unavailable

BATCH_ROWS_MAX = 10_000
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUEST_OVERHEAD_BYTES = 4_096
"""Room in a batch for what is not rows: parent, input and request id."""
ROW_OVERHEAD_BYTES = 6
"""Tag and length that a row has in a request, at most."""

ATTEMPTS_MAX = 6
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_LAST_SECONDS = 5.0
KEPT_REJECTIONS_MAX = 1_000

BATCH_REFUSED = "BATCH_REFUSED"

Row = TypeVar("Row", bound=Message)
Batch = TypeVar("Batch")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Rejected:
    """A rejected row: its index in everything sent, from 0, and the reason."""

    index: int
    reason: str
    field: str
    description: str


@dataclass
class Sent:
    """Result of the rows sent so far.

    `revision` is the last one acknowledged: a read with `at_least` that revision sees all of them. At most
    `KEPT_REJECTIONS_MAX` rejections are kept; `rejected` counts all.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    revision: str = ""
    rejections: list[Rejected] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows acknowledged: accepted, duplicate or rejected."""
        return self.accepted + self.duplicates + self.rejected

    def add(self, other: Sent) -> None:
        """Adds the result of another batch."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejected += other.rejected
        self.revision = other.revision or self.revision
        room = KEPT_REJECTIONS_MAX - len(self.rejections)
        self.rejections += other.rejections[:room]


Progress = Callable[[Sent], None]


def batches(rows: Iterable[Row], rows_max: int = BATCH_ROWS_MAX) -> Iterator[list[Row]]:
    """Rows cut into lists that stay below the limits of one request."""
    batch: list[Row] = []
    batch_bytes = REQUEST_OVERHEAD_BYTES
    for row in rows:
        row_bytes = row.ByteSize() + ROW_OVERHEAD_BYTES
        if batch and (len(batch) == rows_max or batch_bytes + row_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], REQUEST_OVERHEAD_BYTES
        batch.append(row)
        batch_bytes += row_bytes
    if batch:
        yield batch


def send_all(
    prepared: Iterable[Batch],
    send: Callable[[Batch], Sent],
    *,
    concurrency: int,
    progress: Progress | None = None,
) -> Sent:
    """Sends every batch, `concurrency` at a time; `progress` is called in the caller's thread after each.

    The last batch goes by itself after all others, so that the revision it is answered with covers them. The
    first error that trying again does not help is raised once the requests under way have ended; batches not
    yet begun are not sent.
    """
    total = Sent()
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        running: set[Future[Sent]] = set()
        for batch, is_last in _with_last_marked(prepared):
            if running and (is_last or len(running) == concurrency):
                done, running = wait(running, return_when=ALL_COMPLETED if is_last else FIRST_COMPLETED)
                _collect(done, total, progress)
            running.add(pool.submit(send, batch))
        _collect(running, total, progress)
    return total


def _with_last_marked(prepared: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    held: list[Batch] = []
    for batch in prepared:
        yield from ((earlier, False) for earlier in held)
        held = [batch]
    yield from ((last, True) for last in held)


def _collect(done: Iterable[Future[Sent]], total: Sent, progress: Progress | None) -> None:
    for future in done:
        total.add(future.result())
        if progress is not None:
            progress(total)


def with_retry(call: Callable[[], Answer]) -> Answer:
    """Calls again with growing pauses while the service is out of reach; only for calls with a request id."""
    pause_seconds = BACKOFF_FIRST_SECONDS
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return call()
        except (Unavailable, DeadlineExceeded):
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, BACKOFF_LAST_SECONDS)
    return call()


def refused(error: MilepostError, rows: int, first_index: int) -> Sent:
    """What `error` says when a batch was refused because no row of it could be taken; any other is raised."""
    if not isinstance(error, InvalidArgument) or error.reason != BATCH_REFUSED:
        raise error
    found = [
        Rejected(first_index + _row_of(violation.field), error.reason, violation.field, violation.description)
        for violation in error.violations
    ]
    return Sent(rejected=rows, rejections=found)


def _row_of(path: str) -> int:
    _, _, after = path.partition("[")
    digits, _, _ = after.partition("]")
    return int(digits) if digits.isdigit() else 0
