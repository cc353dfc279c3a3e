"""`milepost account`: accounts, in which everything else is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions, Group, ServiceOptions
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import DisplayName, Etag, changes, faults_by_option, given
from milepost.cli.text import moment, number
from milepost.client import Client
from milepost.durations import text_of
from milepost.v1.account_pb2 import Account, AccountQuotas

app = typer.Typer(
    help="Create, list, edit and delete accounts. Everything else is in an account.",
    no_args_is_help=True,
    cls=Group,
)

Name = Annotated[
    str, typer.Argument(metavar="ACCOUNT", show_default=False, help="The account's id. Default: --account.")
]


def _to_quotas(text: str) -> AccountQuotas:
    quotas = AccountQuotas()
    for each in filter(None, text.split(",")):
        name, _, limit = each.partition("=")
        if name not in AccountQuotas.DESCRIPTOR.fields_by_name:
            known = ", ".join(AccountQuotas.DESCRIPTOR.fields_by_name)
            raise typer.BadParameter(f"{name!r} is not a quota; the quotas are {known}")
        try:
            setattr(quotas, name, int(limit))
        except ValueError as error:
            raise typer.BadParameter(f"{name} must be a whole number in its range, not {limit!r}") from error
    return quotas


@dataclass(frozen=True)
class AccountFields:
    """What can be chosen of an account."""

    display_name: DisplayName = None
    active_audience_limit: Annotated[
        int | None, typer.Option(min=0, help="Maximum number of activated audiences.")
    ] = None
    time_zone: Annotated[
        str | None, typer.Option(help="IANA time zone of calendar windows, like Europe/Berlin.")
    ] = None
    event_retention: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=to_length,
            help="Maximum age of events, like 365d. Older ones are removed for good. 0s keeps all.",
        ),
    ] = None
    quotas: Annotated[
        AccountQuotas | None,
        typer.Option(
            metavar="NAME=NUMBER,…",
            parser=_to_quotas,
            help="What the account may have, like journeys_max=5000,names_max=20000. The other quotas get "
            "their defaults.",
        ),
    ] = None


@app.command("list")
@grouped
def list_(as_json: AsJson = False, *, service: ServiceOptions) -> None:
    """List all accounts."""
    with service.open() as client:
        show_many(
            client.list_accounts(),
            ["account", "name", "activated", "limit", "time zone", "events kept"],
            _row,
            as_json=as_json,
            right=(2, 3),
        )


@app.command()
@grouped
def show(name: Name = "", as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show an account."""
    with _at(account, name) as client:
        show_one(client.get_account(), _facts, as_json=as_json)


@app.command()
@grouped
def create(
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Id of the new account.")],
    chosen: AccountFields,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create an account. By default: 100 activated audiences, UTC, and all events are kept."""
    with _at(account, name) as client, faults_by_option():
        show_one(client.create_account(**given(chosen)), _facts, as_json=as_json)


@app.command()
@grouped
def edit(
    name: Name = "",
    *,
    chosen: AccountFields,
    etag: Etag = "",
    as_json: AsJson = False,
    account: AccountOptions,
) -> None:
    """Change what is given of an account."""
    with _at(account, name) as client, faults_by_option():
        show_one(client.update_account(etag=etag, **changes(chosen)), _facts, as_json=as_json)


@app.command()
@grouped
def delete(
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    confirm: Annotated[str, typer.Option(metavar="ACCOUNT", help="The account's id again.")],
    etag: Etag = "",
    *,
    account: AccountOptions,
) -> None:
    """Delete an empty account, for good. Its journeys, connections, outputs and workspaces go first."""
    with _at(account, name) as client, faults_by_option():
        client.delete_account(name, confirmation=confirm, etag=etag)
        print(f"deleted {client.account_name}")


def _at(account: AccountOptions, name: str) -> AbstractContextManager[Client]:
    """A client of the account that is named, or of --account."""
    return (replace(account, account=name) if name else account).open()


def _row(account: Account) -> list[str]:
    return [
        names.last_id(account.name),
        account.display_name,
        number(account.active_audience_count),
        number(account.active_audience_limit),
        account.time_zone,
        _kept(account),
    ]


def _facts(account: Account) -> Facts:
    activated = f"{number(account.active_audience_count)} of {number(account.active_audience_limit)}"
    return [
        ("account", names.last_id(account.name)),
        ("name", account.display_name),
        ("activated audiences", activated),
        ("time zone", account.time_zone),
        ("events kept", _kept(account)),
        ("created", moment(account.create_time)),
        ("updated", moment(account.update_time)),
    ]


def _kept(account: Account) -> str:
    return text_of(account.event_retention) if account.HasField("event_retention") else "all"
