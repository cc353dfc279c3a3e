"""`milepost journey apply`, `diff`, `export`: whole journeys as YAML documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from milepost import journeys
from milepost.cli.connection import (
    DEFAULT_ACCOUNT,
    DEFAULT_TARGET,
    AccountId,
    ApiKey,
    Target,
    open_client,
)
from milepost.cli.difference import counts_text, print_difference
from milepost.cli.text import console
from milepost.client import Client

STANDARD_STREAM = "-"
CHANGES_STATUS = 2

File = Annotated[str, typer.Argument(help="Journey as YAML; `-` reads standard input.")]


def apply(
    file: File,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Apply a journey file: create, change, move and delete milestones. Idempotent."""
    out = console()
    with open_client(target, account, api_key) as client:
        difference = _compared(client, file, out)
        journeys.apply(client, difference)
        if not difference.is_empty:
            print(f"applied: {counts_text(difference)}", file=out.file)


def diff(
    file: File,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with status 2 when something would change.")
    ] = False,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Show what applying a file would change, with every size before and after."""
    out = console()
    with open_client(target, account, api_key) as client:
        difference = _compared(client, file, out)
    if not difference.is_empty:
        print(f"to apply: {counts_text(difference)}", file=out.file)
        if exit_code:
            raise typer.Exit(CHANGES_STATUS)


def export(
    journey: Annotated[str, typer.Argument(help="The journey's id or name.")],
    file: Annotated[
        str, typer.Argument(help="File to write; `-` writes to standard output.")
    ] = STANDARD_STREAM,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Export a journey as a file that `apply` reads."""
    with open_client(target, account, api_key) as client:
        text = journeys.dumps(journeys.read(client, journey))
    if file == STANDARD_STREAM:
        print(text, end="")
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        _refuse(file, error)


def _compared(client: Client, file: str, out: Console) -> journeys.JourneyDifference:
    """The difference that applying the file makes, printed."""
    try:
        text = sys.stdin.read() if file == STANDARD_STREAM else Path(file).read_text(encoding="utf-8")
        difference = journeys.compare(client, journeys.loads(text))
    except (OSError, UnicodeDecodeError, journeys.DocumentError) as error:
        _refuse(file, error)
    print_difference(difference, client.journey_name(difference.after.id), out)
    return difference


def _refuse(file: str, error: Exception) -> NoReturn:
    for line in str(error).splitlines():
        print(f"milepost: {file}: {line}", file=sys.stderr)
    raise typer.Exit(1) from error
