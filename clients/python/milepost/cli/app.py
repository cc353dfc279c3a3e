"""Assembles the commands."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from milepost.cli import (
    accounts,
    audience,
    audiences,
    catalog,
    connections,
    demo,
    explain,
    importing,
    init,
    inputs,
    journey,
    keys,
    milestones,
    outputs,
    overlap,
    rules,
    sample,
    serve,
    server,
    store,
    users,
    watching,
    workspaces,
)
from milepost.cli.calling import Group
from milepost.cli.import_run import RemembersArguments

app = typer.Typer(
    help="Milepost: customer journeys with exact audience sizes.",
    no_args_is_help=True,
    cls=Group,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"milepost {metadata.version('milepost')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit. `milepost server info` shows the service's.",
        ),
    ] = False,
) -> None:
    """Holds the options that come before a command."""


# The service reads its own flags, --help among them.
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)(serve.serve)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(init.init)
app.command()(demo.demo)
app.command("test")(rules.run_tests)
app.add_typer(accounts.app, name="account")
app.add_typer(keys.app, name="key")
app.add_typer(workspaces.app, name="workspace")
app.add_typer(inputs.app, name="input")
app.command("import", cls=RemembersArguments)(importing.import_)
app.add_typer(users.app, name="user")
app.add_typer(journey.app, name="journey")
app.add_typer(milestones.app, name="milestone")
app.command()(audience.estimate)
app.command()(audience.count)
app.command()(audience.check)
app.command()(audience.members)
app.command()(explain.explain)
app.command()(overlap.overlap)
app.command()(watching.watch)
app.add_typer(audiences.app, name="audience")
app.add_typer(catalog.app, name="catalog")
app.add_typer(outputs.app, name="output")
app.add_typer(connections.app, name="connection")
app.add_typer(sample.app, name="sample")
app.add_typer(server.app, name="server")
app.add_typer(store.app, name="store")
