"""`milepost server`: the service that runs. `milepost store` looks after what it stores."""

from __future__ import annotations

import typer

from milepost.cli.answers import AsJson, Facts, show_one
from milepost.cli.calling import Group, ServiceOptions
from milepost.cli.option_groups import grouped
from milepost.cli.text import moment, number, size
from milepost.v1.admin_service_pb2 import GetServerInfoResponse

app = typer.Typer(help="Show the service that runs.", no_args_is_help=True, cls=Group)


@app.callback()
def group() -> None:
    """Commands on the service."""


@app.command()
@grouped
def info(as_json: AsJson = False, *, service: ServiceOptions) -> None:
    """Show the service's version, its newest revision and figures of its store."""
    with service.open() as client:
        show_one(client.get_server_info(), _facts, as_json=as_json)


def _facts(found: GetServerInfoResponse) -> Facts:
    return [
        ("version", found.version),
        ("store", found.store_id),
        ("revision", found.revision),
        ("started", moment(found.start_time)),
        ("users", number(found.users)),
        ("events", number(found.events)),
        ("on disk", size(found.disk_bytes)),
        ("log to checkpoint", size(found.log_bytes)),
    ]
