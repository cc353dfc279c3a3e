"""One file from its first segment that is not acknowledged to its last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from milepost._importing import Imported
from milepost.client import Client
from milepost.importing import progress as progress_file
from milepost.importing.progress import Progress
from milepost.importing.rejected import RejectedRows
from milepost.importing.settings import Settings
from milepost.importing.source import SEGMENT_ROWS, Format, Segment, open_source

PROGRESS_SUFFIX = ".milepost-import.json"
REJECTED_SUFFIX = ".rejected.ndjson"

Item = TypeVar("Item")


@dataclass(frozen=True)
class FileImported:
    """What became of a file, former runs included; `resumed_rows` are theirs. `rejected_path` exists when
    something was rejected.
    """

    rows: int
    resumed_rows: int
    accepted: int
    duplicates: int
    rejected: int
    revision: str
    rejected_path: Path


@dataclass(frozen=True)
class Watcher:
    """Whoever wants to see how it goes. `begins` is called with the rows of the file, None when they are not
    known, and those done by former runs; `sent` with rows that went out, `done` with all rows acknowledged.
    """

    begins: Callable[[int | None, int], None] = lambda total, done: None
    sent: Callable[[int], None] = lambda rows: None
    done: Callable[[int], None] = lambda rows: None


def import_file(
    client: Client,
    path: Path,
    settings: Settings,
    *,
    format: Format = Format.AUTO,
    request_id: str = "",
    rejected_path: Path | None = None,
    progress_path: Path | None = None,
    force: bool = False,
    segment_rows: int = SEGMENT_ROWS,
    watcher: Watcher | None = None,
) -> FileImported:
    """Imports a file, from where a former run broke off. Safe to repeat: each segment has a request id, made
    from the file, the settings and `request_id`, and what is acknowledged is remembered in `progress_path`.

    Raises CannotImport, CannotResume (unless `force`), and what calls raise; then what is acknowledged stays.
    """
    progress_path = progress_path or path.with_name(path.name + PROGRESS_SUFFIX)
    source = open_source(path, format, settings, segment_rows)
    id_ = progress_file.import_id(path, settings, client.account_name, request_id)
    progress = progress_file.load(progress_path, id_)
    if not progress.segments and not progress.sending_since and rejected_path is not None:
        # A file that may be that of others as well: what is there stays.
        progress.rejected_bytes = rejected_path.stat().st_size if rejected_path.exists() else 0
    rejected_path = rejected_path or path.with_name(path.name + REJECTED_SUFFIX)
    watcher = watcher or Watcher()
    watcher.begins(source.rows, progress.rows)
    resumed_rows = progress.rows
    if not progress.complete:
        rejected = RejectedRows(rejected_path, path, progress.rejected_bytes)
        for segment in _ahead(source.segments(progress.rows, progress.malformed)):
            _check_resumable(progress, segment, settings, force)
            _send(client, segment, settings, progress, progress_path, rejected, watcher)
        progress.complete = True
        progress_file.save(progress_path, progress)
    return FileImported(
        rows=progress.rows,
        resumed_rows=resumed_rows,
        accepted=progress.accepted,
        duplicates=progress.duplicates,
        rejected=progress.rejected,
        revision=progress.revision,
        rejected_path=rejected_path,
    )


def _check_resumable(progress: Progress, segment: Segment, settings: Settings, force: bool) -> None:
    if not force and segment.batches:
        progress.check_resumable(_have_event_ids(segment, settings), progress_file.now())


def _have_event_ids(segment: Segment, settings: Settings) -> bool:
    column = settings.event_id_column
    return all(
        column in batch.schema.names and not batch.column(column).null_count for batch in segment.batches
    )


def _send(
    client: Client,
    segment: Segment,
    settings: Settings,
    progress: Progress,
    progress_path: Path,
    rejected: RejectedRows,
    watcher: Watcher,
) -> None:
    """Sends a segment and remembers that it is acknowledged."""
    progress.sending_since = progress.sending_since or progress_file.now().isoformat()
    progress_file.save(progress_path, progress)
    imported = Imported()
    if segment.batches:
        imported = client.import_events(
            segment.batches,
            input=settings.input,
            columns=settings.header(segment.batches[0].schema.names, segment.kinds),
            request_id=f"{progress.import_id}-{progress.segments}",
            rows_sent=watcher.sent,
        )
    rejected.add(segment, imported.refused)
    progress.segments += 1
    progress.rows += segment.rows
    progress.malformed += len(segment.malformed)
    progress.accepted += imported.accepted
    progress.duplicates += imported.duplicates
    progress.rejected += imported.rejected + len(segment.malformed)
    progress.rejected_bytes = rejected.size_bytes
    progress.revision = imported.revision or progress.revision
    progress.sending_since = ""
    progress_file.save(progress_path, progress)
    watcher.done(progress.rows)


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, the next one made while one is used."""
    end = object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
