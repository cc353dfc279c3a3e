"""One file from its first segment that is not acknowledged to its last."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost._importing import Imported
from milepost.client import Client
from milepost.errors import MilepostError, PermissionDenied, Unauthenticated, Unimplemented
from milepost.importing import progress as progress_file
from milepost.importing.ahead import ahead
from milepost.importing.checks import check_columns, check_target
from milepost.importing.early_times import EarlyTimes, early_times
from milepost.importing.errors import naming
from milepost.importing.progress import FROM_START, Progress, ProgressFile, new_progress
from milepost.importing.rejected import RejectedRows
from milepost.importing.resuming import begun, check_open_segment
from milepost.importing.rows import Lacking, without_rows_lacking
from milepost.importing.settings import Kinds
from milepost.importing.source import SEGMENT_ROWS, Format, Segment, open_source
from milepost.importing.user_settings import AnySettings
from milepost.v1.catalog_service_pb2 import ValueKind

REJECTED_SUFFIX = ".rejected.ndjson"
PATH_DIGEST_BYTES = 4
REFUSED_WHEN_FIRST_SENT = (
    f"refused when they were first sent, before the run broke off; {FROM_START} sends them"
)


@dataclass(frozen=True)
class FileImported:
    """What became of a file, former runs included; `resumed_rows` are theirs. `skipped` rows had no user and
    were left out by wish. `refusals` are why rows were rejected, and how many. `rejected_path` exists when
    something was rejected. `left_out` values, by column, were left out because no attribute holds them.
    `unseen` are attributes of `Settings.kinds` that no row has.
    """

    rows: int
    resumed_rows: int
    accepted: int
    duplicates: int
    rejected: int
    skipped: int
    refusals: Mapping[str, int]
    left_out: Mapping[str, int]
    revision: str
    rejected_path: Path
    unseen: Sequence[str] = ()
    was_complete: bool = False
    """Whether a former run had imported all of it."""
    rows_are: str = "events"
    """What the rows are: events or users."""


@dataclass(frozen=True)
class Watcher:
    """Whoever wants to see how it goes. `begins` is called with the rows of the file, None when they are not
    known, and those done by former runs; `sent` with rows that went out, `done` with all rows acknowledged;
    before anything of the first segment is sent, `without_event_ids` with its rows that lack an event id, and
    `early_times` when most of its times fall into 1970.
    """

    begins: Callable[[int | None, int], None] = lambda total, done: None
    sent: Callable[[int], None] = lambda rows: None
    done: Callable[[int], None] = lambda rows: None
    without_event_ids: Callable[[int], None] = lambda rows: None
    early_times: Callable[[EarlyTimes], None] = lambda found: None


@dataclass(frozen=True)
class SideFiles:
    """Where the rejected rows and the progress of files are kept: beside each file, or all in `directory`
    under names that are made from the paths of the files; `rejected` is one file for the rejected rows of all
    of them, `progress` that of a single file.
    """

    directory: Path | None = None
    rejected: Path | None = None
    progress: Path | None = None

    def progress_of(self, path: Path, suffix: str) -> Path:
        """The progress file of a file."""
        return self.progress or self._beside(path, suffix)

    def rejected_of(self, path: Path) -> Path:
        """The file of the rejected rows of a file."""
        return self.rejected or self._beside(path, REJECTED_SUFFIX)

    def _beside(self, path: Path, suffix: str) -> Path:
        if self.directory is None:
            return path.with_name(path.name + suffix)
        # Files of one name may come from several directories.
        digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=PATH_DIGEST_BYTES).hexdigest()
        return self.directory / f"{path.name}.{digest}{suffix}"


def import_file(
    client: Client,
    path: Path,
    settings: AnySettings,
    *,
    format: Format = Format.AUTO,
    request_id: str = "",
    side_files: SideFiles | None = None,
    from_start: bool = False,
    force: bool = False,
    segment_rows: int = SEGMENT_ROWS,
    one_of_several: bool = False,
    watcher: Watcher | None = None,
) -> FileImported:
    """Imports a file, from where a former run broke off. Safe to repeat: each segment has a request id, made
    from the file, the settings and `request_id`, and what is acknowledged is remembered. As `one_of_several`
    it may lack attributes that `Settings.kinds` names.

    Raises CannotBegin, CannotImport, CannotResume (unless `force`, and for another import of the same file
    `from_start`), and what calls raise; then what is acknowledged stays.
    """
    side_files = side_files or SideFiles()
    account = check_target(client, settings)
    with naming(path):
        source = open_source(path, format, settings, segment_rows)
        check_columns(source, settings, kinds=not one_of_several)
        created = account.create_time.ToJsonString() if account.HasField("create_time") else ""
        wanted = new_progress(path, settings, client.account_name, created, request_id, segment_rows)
        stored = ProgressFile(side_files.progress_of(path, settings.progress_suffix), wanted.account, created)
        if not (from_start and force):
            stored.check()
        progress = begun(stored.entry, wanted, from_start=from_start, force=force)
        if (progress.segment_rows, progress.told) != (wanted.segment_rows, wanted.told):
            settings = dataclasses.replace(settings, told=_kinds(progress.told))
            source = open_source(path, format, settings, progress.segment_rows)
        rejected = _rejected_rows(side_files, path, stored.entry, progress)
        watcher = watcher or Watcher()
        resumed_rows = progress.rows
        was_complete = progress.complete
        unseen: set[str] = set()
        if not progress.complete:
            watcher.begins(source.rows, progress.rows)
            sending = _Sending(client, settings, progress, stored, rejected, watcher, force)
            with ahead(source.segments(progress.rows, progress.malformed)) as segments:
                for segment in segments:
                    sending.send(segment)
            sending.finish()
            unseen = set() if resumed_rows else sending.unseen
    return FileImported(
        rows=progress.rows,
        resumed_rows=resumed_rows,
        accepted=progress.accepted,
        duplicates=progress.duplicates,
        rejected=progress.rejected,
        skipped=progress.skipped,
        refusals=progress.refusals,
        left_out=progress.left_out,
        revision=progress.revision,
        rejected_path=side_files.rejected_of(path),
        unseen=sorted(unseen),
        was_complete=was_complete,
        rows_are=settings.rows_are,
    )


def _kinds(stored: Mapping[str, int] | None) -> Kinds | None:
    return None if stored is None else {name: ValueKind.ValueType(kind) for name, kind in stored.items()}


def _rejected_rows(
    side_files: SideFiles, path: Path, former: Progress | None, progress: Progress
) -> RejectedRows:
    is_shared = side_files.rejected is not None
    # What others wrote to a shared file stays, and it is not searched where nothing of this file can be.
    first_row = None if is_shared and former is None else progress.rows
    return RejectedRows(side_files.rejected_of(path), path, first_row)


class _Sending:
    """Sends segments and remembers what is acknowledged."""

    def __init__(
        self,
        client: Client,
        settings: AnySettings,
        progress: Progress,
        stored: ProgressFile,
        rejected: RejectedRows,
        watcher: Watcher,
        force: bool,
    ) -> None:
        self._client = client
        self._settings = settings
        self._progress = progress
        self._stored = stored
        self._rejected = rejected
        self._watcher = watcher
        self._force = force
        self._is_first = True
        self._has_warned = False
        self.unseen = set(settings.kinds)
        """Attributes of the settings' kinds that no segment has had."""

    def send(self, segment: Segment) -> None:
        """Sends a segment. Raises what the call raises; when it is certain that nothing of the segment was
        taken, what is remembered is then the same as before.
        """
        progress = self._progress
        skipped = 0
        if self._settings.skip_without_user:
            segment, skipped = without_rows_lacking(segment, self._settings.user_id_column)
        imported, without_ids = Imported(), 0
        if segment.batches:
            self.unseen.difference_update(segment.batches[0].schema.names)
            column = self._settings.event_id_column
            lacking = Lacking(segment.batches, column) if column else None
            lacking_count = 0 if lacking is None else lacking.count
            self._before_sending(segment, lacking_count)
            imported = self._call(segment, lacking_count)
            self._count_unnamed(segment, imported)
            if lacking is not None:
                without_ids = lacking_count - sum(lacking.among(each.rows) for each in imported.refused)
        self._rejected.add(segment, imported.refused)
        progress.segments += 1
        progress.rows += segment.rows
        progress.malformed += len(segment.malformed)
        progress.skipped += skipped
        progress.accepted += imported.accepted
        progress.duplicates += imported.duplicates
        progress.rejected += imported.rejected + len(segment.malformed)
        progress.without_event_ids += without_ids
        for column, values in segment.left_out.items():
            progress.left_out[column] = progress.left_out.get(column, 0) + values
        for each in segment.malformed:
            progress.count_refusal(each.field, each.description, 1)
        for refused in imported.refused:
            progress.count_refusal(refused.field, refused.description, len(refused.rows))
        progress.revision = imported.revision or progress.revision
        self._set_open("", 0, 0)
        self._stored.save(progress)
        self._watcher.done(progress.rows)

    def finish(self) -> None:
        """Remembers that all of the file was sent."""
        self._progress.complete = True
        self._stored.save(self._progress)

    def _before_sending(self, segment: Segment, without_event_ids: int) -> None:
        if not self._force:
            check_open_segment(self._progress, segment.rows, without_event_ids, progress_file.now())
        if self._is_first:
            for column in self._settings.time_columns:
                if (found := early_times(segment.batches, column, self._settings.time_unit)) is not None:
                    self._watcher.early_times(found)
        if without_event_ids and not self._has_warned:
            self._has_warned = True
            self._watcher.without_event_ids(without_event_ids)
        self._is_first = False

    def _count_unnamed(self, segment: Segment, imported: Imported) -> None:
        """Counts as rejected what the service says nothing of. It answers for a batch that it took before as
        it did then: rows that it refused then and would take now are not in.
        """
        rows = sum(batch.num_rows for batch in segment.batches)
        missing = rows - imported.accepted - imported.duplicates - imported.rejected
        if missing > 0:
            imported.rejected += missing
            self._progress.count_refusal("", REFUSED_WHEN_FIRST_SENT, missing)

    def _call(self, segment: Segment, without_event_ids: int) -> Imported:
        progress = self._progress
        before = dataclasses.replace(progress)
        since = progress.sending_since or progress_file.now().isoformat(timespec="seconds")
        self._set_open(since, segment.rows, without_event_ids)
        self._stored.save(progress)
        batches = _Batches(segment.batches)
        try:
            return self._settings.send(
                self._client, batches, segment.kinds, progress.request_id, self._watcher.sent
            )
        except BaseException as error:
            if not before.sending_since and _took_nothing(error, batches.begun):
                self._set_open("", 0, 0)
                if before.segments:
                    self._stored.save(before)
                else:
                    self._stored.restore()
            raise

    def _set_open(self, since: str, rows: int, without_event_ids: int) -> None:
        progress = self._progress
        progress.sending_since, progress.sending_rows = since, rows
        progress.sending_without_event_ids = without_event_ids


class _Batches(Sequence[Any]):
    """Record batches that count how often they began to be sent."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        self.begun = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: Any) -> Any:
        self.begun += place == 0
        return self._batches[place]


def _took_nothing(error: BaseException, begun: int) -> bool:
    """Whether it is certain that the service has no row of what was sent, `begun` times, in a failed call."""
    if not begun or isinstance(error, Unauthenticated | PermissionDenied | Unimplemented):
        return True
    # A first call may have been taken whose answer was lost; of a second one, that its refusal says nothing.
    return begun == 1 and isinstance(error, MilepostError) and error.metadata.get("rows") == "0"
