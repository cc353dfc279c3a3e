"""`milepost import`: files of events or users into a running service."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milepost import names
from milepost.cli.calling import EXIT_USAGE, AccountOptions
from milepost.cli.import_options import ReadingOptions, RowOptions, RunOptions, UserOptions
from milepost.cli.import_run import ImportRun
from milepost.cli.import_settings import settings_of
from milepost.cli.option_groups import grouped
from milepost.cli.text import console
from milepost.client import Client
from milepost.importing import Format, SideFiles, import_file
from milepost.importing.checks import fault_of_input
from milepost.importing.files import is_kept_input, kept_input
from milepost.importing.run import REJECTED_SUFFIX

STANDARD_INPUT = Path("-")


@grouped
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Parquet, CSV or NDJSON files; - reads standard input."),
    ],
    rows: RowOptions,
    reading: ReadingOptions,
    users: UserOptions,
    run: RunOptions,
    account: AccountOptions,
) -> None:
    """Import files of events or users. The next run resumes an interrupted one; nothing is applied twice.

    Exit status: 0 all rows imported; 3 some rows rejected (written to a file with reasons); 1 a file failed
    (the others continue) or the run was interrupted; 2 invalid option; 130 stopped by Ctrl-C or SIGTERM.
    """
    if run.progress_file is not None and len(files) > 1:
        raise _usage("--progress-file is for one file")
    try:
        settings = settings_of(rows, reading, users)
    except ValueError as error:
        raise _usage(str(error)) from error
    if run.side_dir is not None:
        _make_directory(run.side_dir)
    with _sources(files, rows.format) as sources, account.open() as client:
        if run.create:
            _create(client, rows.input)
        import_one = partial(
            import_file,
            request_id=run.request_id,
            side_files=_side_files(sources, run),
            from_start=run.from_start,
            force=run.force,
            segment_rows=run.segment_rows,
        )
        status = ImportRun(context, client, sources, rows.format, settings, import_one, console()).run()
    if status:
        raise typer.Exit(status)


def _usage(message: str) -> typer.Exit:
    print(f"milepost: {message}", file=sys.stderr)
    return typer.Exit(EXIT_USAGE)


@contextmanager
def _sources(files: Sequence[Path], format_: Format) -> Iterator[list[Path]]:
    """The files, each once; standard input as a temporary file."""
    if STANDARD_INPUT not in files:
        once: dict[Path, Path] = {}
        for file in files:
            once.setdefault(file.resolve(), file)
        yield list(once.values())
        return
    if len(files) > 1 or format_ is Format.AUTO:
        raise _usage("- is the standard input: give it alone, with --format parquet, csv or ndjson")
    with kept_input(sys.stdin.buffer) as kept:
        yield [kept]


def _side_files(files: Sequence[Path], run: RunOptions) -> SideFiles:
    """Rejected rows of the standard input go to the working directory; its progress is not kept."""
    rejected = run.rejected
    for option, path in (("--rejected", rejected), ("--progress-file", run.progress_file)):
        if path is not None and any(_is_same(path, file) for file in files):
            raise _usage(f"{option} {path} is a file to import: it would be overwritten")
    if is_kept_input(files[0]) and run.side_dir is None and rejected is None:
        rejected = Path(files[0].name + REJECTED_SUFFIX)
    return SideFiles(run.side_dir, rejected, run.progress_file)


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _usage(f"--side-dir {path}: {error.strerror}") from error


def _create(client: Client, input_: str) -> None:
    """Creates the account and the input where they are missing."""
    if input_ and (fault := fault_of_input(input_)):
        raise _usage(fault)
    short = names.short_input(input_)
    if input_ and client.input_name(short) != client.input_name(input_):
        raise _usage(f"--create makes inputs of --account {client.account_id}, and not {input_!r}")
    client.ensure_account()
    if input_:
        client.ensure_input(*short.split("/"))
