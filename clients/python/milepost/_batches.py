"""Cuts data into batches below the limits of one request, and adds up what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.message import Message

from milepost._arguments import wrong
from milepost.errors import InvalidArgument, MilepostError
from milepost.v1.ingest_service_pb2 import Rejection

BATCH_ROWS_MAX = 10_000
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUEST_OVERHEAD_BYTES = 4_096
"""Bytes reserved in a batch for parent, input and request id."""
ROW_OVERHEAD_BYTES = 6
"""Maximum bytes of a row's tag and length in a request."""

KEPT_REJECTIONS_MAX = 1_000

BATCH_REFUSED = "BATCH_REFUSED"
OF_STREAM = "batch."
"""Where the requests of a stream have their batch."""

Row = TypeVar("Row", bound=Message)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Rejected:
    """A rejected row: its index among all rows sent, from 0, and the reason."""

    index: int
    reason: str
    field: str
    description: str


@dataclass
class Sent:
    """Result of the rows sent so far.

    `revision` is the last acknowledged one: a read with `at_least` set to it sees all rows. At most
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
    """Rows split into lists below the limits of one request. Raises TypeError for a row that is no
    message.
    """
    batch: list[Row] = []
    batch_bytes = REQUEST_OVERHEAD_BYTES
    for index, row in enumerate(rows):
        if not isinstance(row, Message):
            raise wrong(f"row {index}", "a message, as make_event and make_user_update return", row)
        row_bytes = row.ByteSize() + ROW_OVERHEAD_BYTES
        if batch and (len(batch) == rows_max or batch_bytes + row_bytes > BATCH_BYTES_MAX):
            yield batch
            batch, batch_bytes = [], REQUEST_OVERHEAD_BYTES
        batch.append(row)
        batch_bytes += row_bytes
    if batch:
        yield batch


@dataclass(frozen=True)
class Numbered(Generic[Row]):
    """A batch, the index of its first row among all rows, and the request id that it is sent under."""

    rows: list[Row]
    first_index: int
    request_id: str

    def result(self, sent: Sent, rejections: Iterable[Rejection]) -> Sent:
        """`sent` with the rejections of the batch, at their indexes among all rows."""
        sent.rejections = [
            Rejected(self.first_index + each.index, each.reason, each.field, each.description)
            for each in rejections
        ]
        sent.rejected = len(sent.rejections)
        return sent


def numbered(cut: Iterable[list[Row]], request_id: str) -> Iterator[Numbered[Row]]:
    """The batches with their places and request ids, which are made of `request_id` and a number."""
    first_index = 0
    for number, rows in enumerate(cut):
        yield Numbered(rows, first_index, f"{request_id}-{number}")
        first_index += len(rows)


def with_last_marked(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last one."""
    held: list[Item] = []
    for item in items:
        yield from ((earlier, False) for earlier in held)
        held = [item]
    yield from ((last, True) for last in held)


def refused(error: MilepostError, rows: int, first_index: int) -> Sent:
    """The rejections in `error` when all rows of a batch were rejected; raises any other error. Their fields
    are those of acknowledged batches, also where the batch is a field of a request of a stream. Where the
    service gives rows no reasons of their own, theirs is that of the batch.
    """
    if not isinstance(error, InvalidArgument) or error.reason != BATCH_REFUSED:
        raise error
    found = [
        Rejected(
            first_index + _row_of(violation.field),
            violation.reason or error.reason,
            violation.field.removeprefix(OF_STREAM),
            violation.description,
        )
        for violation in error.violations
    ]
    return Sent(rejected=rows, rejections=found)


def _row_of(path: str) -> int:
    _, _, after = path.partition("[")
    digits, _, _ = after.partition("]")
    return int(digits) if digits.isdigit() else 0
