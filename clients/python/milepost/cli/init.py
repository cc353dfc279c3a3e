"""`milepost init`: the first API key of a store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from milepost.cli.answers import AsJson
from milepost.cli.calling import EXIT_USAGE
from milepost.cli.keys import show_secret
from milepost.cli.serve import require_service


def init(
    context: typer.Context,
    another: Annotated[
        str,
        typer.Option(
            metavar="ID", help="Create one more operator key, with this id. For when the secret is lost."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Create the first operator key of a store, and the store if there is none. Prints the secret once.

    No service may have the store open. Takes the flags, variables and configuration file of `milepost serve`,
    --data-dir and --groups among them.
    """
    require_service()
    from service import first_key
    from service.offline import OfflineError

    try:
        made = first_key.create(context.args, key_id=another or first_key.KEY_ID, another=bool(another))
    except first_key.UsageError as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from error
    except OfflineError as error:
        print(f"milepost: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    show_secret(made, as_json=as_json)
