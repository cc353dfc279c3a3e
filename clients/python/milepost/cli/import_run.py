"""The run of `milepost import` over its files: failures of single files, and stopping."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from milepost.cli.calling import EXIT_USAGE
from milepost.cli.import_progress import looking, shown
from milepost.cli.import_summary import doubts, file_summary, grand_total, kinds
from milepost.cli.text import counted, number, printable
from milepost.client import Client
from milepost.errors import (
    InvalidArgument,
    MilepostError,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)
from milepost.importing import (
    CannotBegin,
    CannotImport,
    CannotResume,
    CannotUse,
    FileImported,
    Format,
    Settings,
    UserSettings,
)
from milepost.importing.checks import check_target
from milepost.importing.early_times import EarlyTimes
from milepost.importing.kinds import ColumnKinds
from milepost.importing.progress import FORCE, FROM_START
from milepost.importing.run import Watcher
from milepost.importing.survey import Survey, survey

EXIT_FAILED = 1
EXIT_REJECTED = 3
"""All files were read and sent; some rows were rejected."""
EXIT_STOPPED = 130
"""By Ctrl-C or SIGTERM."""

_ARGUMENTS = "milepost.arguments"
_LASTING = (NotFound, PermissionDenied, Unauthenticated, Unimplemented)
"""Refusals that a repetition meets again."""

ImportFile = Callable[..., FileImported]


class RemembersArguments(TyperCommand):
    """A command that keeps its arguments, to print the command that continues."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def called_again(context: typer.Context, added: Sequence[str] = (), dropped: Sequence[str] = ()) -> str:
    """The command as called, with options added and dropped. Leaves out the API key."""
    arguments: list[str] = list(context.meta[_ARGUMENTS])
    shown_arguments = []
    while arguments:
        argument = arguments.pop(0)
        if argument == "--api-key":
            arguments[:1] = []
        elif not argument.startswith("--api-key=") and argument not in dropped:
            shown_arguments.append(argument)
    added = [option for option in added if option not in shown_arguments]
    return shlex.join(["milepost", "import", *shown_arguments, *added])


@dataclasses.dataclass
class _Standing:
    """The state of a file."""

    rows_acknowledged: int = 0
    rows_total: int | None = None
    rows_out: int = 0
    """Rows sent and not acknowledged. A row sent again counts again."""


class ImportRun:
    """Imports files one after another. A file that fails does not stop the others."""

    def __init__(
        self,
        context: typer.Context,
        client: Client,
        files: Sequence[Path],
        format_: Format,
        settings: Settings | UserSettings,
        import_file: ImportFile,
        out: Console,
    ) -> None:
        self._context = context
        self._client = client
        self._files = files
        self._format = format_
        self._settings = settings
        self._import_file = import_file
        self._out = out
        self._survey = Survey(ColumnKinds(), {})
        self._imported: list[FileImported] = []
        self._failed: list[Path] = []
        self._messages: dict[str, Path] = {}
        """Message → the first file that had it. Later files refer to that one."""
        self._warned: set[str] = set()
        self._standing = _Standing()
        self._started = time.perf_counter()

    def run(self) -> int:
        """Imports all files and returns the exit status. Raises errors of calls that would hit every file."""
        at = 0
        try:
            with _stoppable():
                self._look()
                for at, file in enumerate(self._files):  # noqa: B007 (used when the run stops)
                    self._one(file)
        except KeyboardInterrupt:
            self._say_stopped(at)
            return EXIT_STOPPED
        except CannotBegin as error:
            _tell(str(error))
            return EXIT_USAGE if isinstance(error, CannotUse) else EXIT_FAILED
        except MilepostError as error:
            if isinstance(error, _LASTING) and not self._has_begun():
                # The same command would fail again, and there is nothing to continue.
                _tell("nothing was imported")
                raise
            self._total()
            _tell(f"interrupted: {self._where(at)}\ncontinue with\n  {self._called_again()}")
            raise
        self._total()
        self._warn_of_options()
        if self._failed:
            return EXIT_FAILED
        return EXIT_REJECTED if any(each.rejected for each in self._imported) else 0

    def _look(self) -> None:
        """Checks all files before a row is sent."""
        check_target(self._client, self._settings)
        with looking(len(self._files), self._out) as begins:
            self._survey = survey(self._files, self._format, self._settings, begins)
        for doubt in doubts(self._survey.kinds):
            _tell(f"warning: {doubt}")
        self._settings = dataclasses.replace(self._settings, found_kinds=self._survey.kinds.by_column)

    def _one(self, file: Path) -> None:
        if (fault := self._survey.faults.get(file)) is not None:
            self._fail(file, str(fault))
            return
        self._standing = _Standing()
        started = time.perf_counter()
        try:
            with shown(file.name, self._out, self._warnings(file)) as watcher:
                imported = self._import_file(
                    self._client,
                    file,
                    self._settings,
                    format=self._format,
                    one_of_several=True,
                    watcher=self._followed(watcher),
                )
        except CannotBegin:
            raise
        except CannotResume as error:
            self._fail(file, f"{error}\n  {called_again(self._context, error.options)}")
        except (CannotImport, ValueError) as error:
            self._fail(file, str(error))
        except InvalidArgument as error:
            self._fail(file, f"{file}: {error}")
        else:
            self._imported.append(imported)
            if len(self._files) == 1 or not imported.was_complete:
                self._say(file_summary(file.name, imported, time.perf_counter() - started))

    def _followed(self, watcher: Watcher) -> Watcher:
        """A watcher that keeps the state of the file and passes all calls on."""
        standing = self._standing

        def begins(total: int | None, done: int) -> None:
            standing.rows_total, standing.rows_acknowledged = total, done
            watcher.begins(total, done)

        def sent(rows: int) -> None:
            standing.rows_out += rows
            watcher.sent(rows)

        def done(rows: int) -> None:
            standing.rows_acknowledged, standing.rows_out = rows, 0
            watcher.done(rows)

        return dataclasses.replace(watcher, begins=begins, sent=sent, done=done)

    def _warnings(self, file: Path) -> Watcher:
        """A watcher that prints warnings about a file, each topic once in a run."""
        further = "; the same holds for further files" if len(self._files) > 1 else ""

        def warn(topic: str, message: str) -> None:
            if topic not in self._warned:
                self._warned.add(topic)
                _tell(f"warning: {file}: {message}{further}")

        def without_event_ids(rows: int) -> None:
            warn(
                "event ids",
                f"{counted(rows, 'row')} of its first segment without an event id (--event-id-column). The"
                " same command may be repeated and counts them once; imported with other settings, or after"
                " the file has changed, they count again",
            )

        def early(found: EarlyTimes) -> None:
            advice = f". Likely they are in another unit: --time-unit {found.likely_unit}"
            warn(
                "early times",
                f"{number(found.count)} of {number(found.times)} times of its first segment fall into 1970"
                f"{advice if found.likely_unit else ''}",
            )

        return Watcher(without_event_ids=without_event_ids, early_times=early)

    def _fail(self, file: Path, message: str) -> None:
        self._failed.append(file)
        reason = message.removeprefix(f"{file}: ")
        first = self._messages.setdefault(reason, file)
        _tell(message if first == file else f"{file}: the same error as {first}")

    # --- state ---

    def _say_stopped(self, at: int) -> None:
        if len(self._files) > 1:
            self._total()
        _tell(f"stopped: {self._where(at)}\ncontinue with\n  {self._called_again()}")

    def _called_again(self) -> str:
        # Once this run has imported rows, the next one must not start over.
        return called_again(self._context, dropped=(FROM_START, FORCE) if self._has_begun() else ())

    def _has_begun(self) -> bool:
        """Whether the service has acknowledged rows."""
        return any(each.rows for each in self._imported) or self._standing.rows_acknowledged > 0

    def _where(self, at: int) -> str:
        standing = self._standing
        total = "" if standing.rows_total is None else f" of {number(standing.rows_total)}"
        said = f"{self._files[at]}: {number(standing.rows_acknowledged)}{total} rows are acknowledged"
        if standing.rows_out:
            said += (
                ", those sent since then may be in and count once when they are sent again within 24 hours"
            )
        if waiting := len(self._files) - at - 1:
            said += f"; {number(waiting)} further {'file is' if waiting == 1 else 'files are'} not begun"
        return said

    def _warn_of_options(self) -> None:
        """Warns about options that did nothing in any file. With all columns known they were refused."""
        done_nothing = [
            {f"no row has the attribute {name!r} that --column names" for name in imported.unseen}
            | {f"{option} {shlex.quote(name)} matches nothing in any row" for option, name in imported.unused}
            for imported in self._imported
        ]
        for message in sorted(set[str]().union(*done_nothing).intersection(*done_nothing)):
            where = f"{self._files[0]}: " if len(self._files) == 1 else ""
            _tell(f"warning: {where}{message}")

    def _total(self) -> None:
        for line in kinds(self._survey.kinds):
            self._say(line)
        if len(self._files) > 1:
            elapsed = time.perf_counter() - self._started
            self._say(grand_total(len(self._files), self._imported, self._failed, elapsed))

    def _say(self, text: str) -> None:
        print(text, file=self._out.file, flush=True)


def _tell(message: str) -> None:
    first, *others = message.split("\n")
    print("\n".join([f"milepost: {printable(first)}", *map(printable, others)]), file=sys.stderr, flush=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Makes SIGTERM end the block like Ctrl-C, with everything closed. A second signal ends the process at
    once.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, stop_at_once)
        raise KeyboardInterrupt

    def stop_at_once(signum: int, frame: FrameType | None) -> None:
        os._exit(EXIT_STOPPED)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
