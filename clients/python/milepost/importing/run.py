"""Imports one file, from its first unacknowledged segment on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost._importing import Imported
from milepost.client import Client
from milepost.errors import MilepostError, NotFound, PermissionDenied, Unauthenticated, Unimplemented
from milepost.importing import progress as progress_file
from milepost.importing.checks import check_columns, check_target, given_options
from milepost.importing.early_times import EarlyTimes, early_times
from milepost.importing.errors import naming
from milepost.importing.formats import Format, open_source
from milepost.importing.prefetch import prefetched
from milepost.importing.progress import FROM_START, Progress, ProgressFile, new_progress
from milepost.importing.rejected import RejectedRows
from milepost.importing.resuming import begun, check_open_segment
from milepost.importing.rows import Lacking, without_rows_lacking
from milepost.importing.settings import Kinds
from milepost.importing.source import SEGMENT_ROWS, Segment
from milepost.importing.user_settings import AnySettings
from milepost.v1.catalog_service_pb2 import ValueKind

REJECTED_SUFFIX = ".rejected.ndjson"
PATH_DIGEST_BYTES = 4
REFUSED_WHEN_FIRST_SENT = (
    f"refused when they were first sent, before the run broke off; {FROM_START} sends them"
)


@dataclass(frozen=True)
class FileImported:
    """The result of importing a file, earlier runs included: `resumed_rows` were theirs.

    `skipped` rows had no user (`skip_without_user`). `refusals` counts rejected rows by reason.
    `rejected_path` exists if rows were rejected. `left_out` counts values by column that no attribute can
    hold (`skip_objects`). `unseen` are attributes of `Settings.kinds` that no row has, and `unused` what
    `Settings.exclude` and `flatten` name and no row has; both are empty after an interrupted run.
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
    unused: Sequence[tuple[str, str]] = ()
    """Each after its option, such as `--exclude`."""
    was_complete: bool = False
    """Whether an earlier run had imported all of it."""
    rows_are: str = "events"
    """What the rows are: events or users."""


@dataclass(frozen=True)
class Watcher:
    """Callbacks that follow an import.

    `begins`: the rows of the file (None = unknown), and those done by earlier runs. `sent`: rows that were
    sent. `done`: all rows acknowledged so far. Before the first segment is sent, `without_event_ids`: its
    rows without an event id; `early_times`: if most of its times are in 1970.
    """

    begins: Callable[[int | None, int], None] = lambda total, done: None
    sent: Callable[[int], None] = lambda rows: None
    done: Callable[[int], None] = lambda rows: None
    without_event_ids: Callable[[int], None] = lambda rows: None
    early_times: Callable[[EarlyTimes], None] = lambda found: None


@dataclass(frozen=True)
class SideFiles:
    """Where rejected rows and progress are kept: beside each file, or all in `directory` under names made
    from the paths of the files. `rejected` is one file for the rejected rows of all files, `progress` the
    progress file of a single file.
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
        # Files of the same name may come from several directories.
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
    """Imports a file, or the rest of it after an interrupted run. Safe to repeat: acknowledged segments are
    remembered, and each segment has a request id made from the file, the settings and `request_id`.
    `one_of_several`: the file may lack attributes that `Settings.kinds` names.

    Raises CannotBegin, CannotImport, the errors of the calls, and CannotResume (not with `force`; for another
    import of the same file also `from_start`). Acknowledged rows stay then.
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
            settings = dataclasses.replace(settings, found_kinds=_kinds(progress.told))
            source = open_source(path, format, settings, progress.segment_rows)
        rejected = _rejected_rows(side_files, path, stored.entry, progress)
        watcher = watcher or Watcher()
        resumed_rows = progress.rows
        was_complete = progress.complete
        unseen: set[str] = set()
        unused: list[tuple[str, str]] = []
        if not progress.complete:
            watcher.begins(source.rows, progress.rows)
            sending = _Sending(client, settings, progress, stored, rejected, watcher, force)
            with prefetched(source.segments(progress.rows, progress.malformed)) as segments:
                for segment in segments:
                    sending.send(segment)
            sending.finish()
            if not resumed_rows:
                unseen = sending.unseen
                unused = [each for each in given_options(settings) if each not in source.shaping.used]
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
        unused=unused,
        was_complete=was_complete,
        rows_are=settings.rows_are,
    )


def _kinds(stored: Mapping[str, int] | None) -> Kinds | None:
    return None if stored is None else {name: ValueKind.ValueType(kind) for name, kind in stored.items()}


def _rejected_rows(
    side_files: SideFiles, path: Path, former: Progress | None, progress: Progress
) -> RejectedRows:
    is_shared = side_files.rejected is not None
    # A shared file is not searched if it can have no rows of this one.
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
        """Attributes of the settings' kinds that no segment has had so far."""

    def send(self, segment: Segment) -> None:
        """Sends a segment. Raises the errors of the call. If it is certain that the service took nothing of
        the segment, the progress stays as it was.
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
        """Saves that the import is complete."""
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
        """Counts rows as rejected that the answer does not mention. The service repeats its first answer for
        a batch that it knows: rows that it refused then, and would take now, are missing.
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
    """Record batches that count how often sending them began."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        self.begun = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: Any) -> Any:
        self.begun += place == 0
        return self._batches[place]


def _took_nothing(error: BaseException, begun: int) -> bool:
    """Whether it is certain that the service took no row in a call that failed after `begun` attempts."""
    if not begun or isinstance(error, Unauthenticated | PermissionDenied | Unimplemented):
        return True
    if not isinstance(error, MilepostError) or error.metadata.get("rows") != "0":
        return False
    # The service may have taken the first attempt, and its answer was lost. But an input or an account that
    # has anything cannot be deleted: what does not exist has no rows of an earlier attempt.
    return begun == 1 or isinstance(error, NotFound)
