"""The commands, put together."""

from __future__ import annotations

import typer

from milepost.cli import audience, catalog, demo, history, importing, journey, sample, serve, store
from milepost.cli.connection import Group
from milepost.cli.import_run import RemembersArguments

app = typer.Typer(
    help="Milepost: customer journeys with exact audience sizes.",
    no_args_is_help=True,
    cls=Group,
    pretty_exceptions_enable=False,
)
# The service reads its own flags, --help among them.
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)(serve.serve)
app.command()(demo.demo)
app.command("import", cls=RemembersArguments)(importing.import_)
app.add_typer(journey.app, name="journey")
app.command()(audience.estimate)
app.command()(audience.check)
app.command()(audience.members)
app.add_typer(history.app, name="audience")
app.add_typer(catalog.app, name="catalog")
app.add_typer(sample.app, name="sample")
app.add_typer(store.app, name="store")
