"""`milepost user`: what is stored about single users, aliases, and erasure."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, show_json, show_many
from milepost.cli.asking import AsOf
from milepost.cli.audiences import HEADER, row_of
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import Yes, confirm
from milepost.cli.text import console, counted, moment, number, printable, show_table, value_text
from milepost.cli.words import word_of
from milepost.v1.catalog_service_pb2 import User
from milepost.v1.data_pb2 import ConsentState

ERASED_USERS_MAX = 10_000
"""Users in one call."""

app = typer.Typer(help="Show, merge and erase single users.", no_args_is_help=True, cls=Group)


@app.command()
@grouped
def show(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Show everything stored about a user except events."""
    with account.open() as client:
        found = client.get_user(user)
    if as_json:
        show_json(found)
    else:
        _show(found)


@app.command()
@grouped
def audiences(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    as_of: AsOf = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the audiences that a user is in. `milepost explain` says why."""
    with account.open() as client:
        found = client.list_user_audiences(user, as_of=as_of)
        show_many(found, HEADER, row_of, as_json=as_json)


@app.command()
@grouped
def alias(
    from_user: Annotated[str, typer.Argument(metavar="FROM", help="Id that becomes an alias.")],
    to_user: Annotated[str, typer.Argument(metavar="TO", help="Id that gets the data.")],
    yes: Yes = False,
    *,
    account: AccountOptions,
) -> None:
    """Merge a user into another, as if all its data had always been sent as the other's. For good."""
    confirm(f"Merge {from_user} into {to_user}? This cannot be undone.", yes=yes)
    with account.open() as client:
        client.alias_user(from_user, to_user)
    print(f"{from_user} is now {to_user}")


@app.command()
@grouped
def erase(
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="Ids of users.")],
    yes: Yes = False,
    *,
    account: AccountOptions,
) -> None:
    """Erase users: profiles, events and memberships. Outputs get their exits, with the id only."""
    confirm(f"Erase {counted(len(users), 'user')}? This cannot be undone.", yes=yes)
    erased = 0
    with account.open() as client:
        for start in range(0, len(users), ERASED_USERS_MAX):
            erased += client.delete_users(users[start : start + ERASED_USERS_MAX]).deleted
    unknown = len(users) - erased
    print(f"erased {counted(erased, 'user')}" + (f", {number(unknown)} unknown" if unknown else ""))


def _show(user: User) -> None:
    """A table for each kind of data that there is."""
    tables = [
        (
            ["input", "first seen", "last seen"],
            [
                [names.short_input(each.input), moment(each.first_seen), moment(each.last_seen)]
                for each in user.inputs
            ],
        ),
        (
            ["workspace", "attribute", "value"],
            [
                [names.last_id(each.workspace), printable(key), value_text(each.attributes[key])]
                for each in user.attributes
                for key in sorted(each.attributes)
            ],
        ),
        (
            ["identity", "value"],
            [[printable(kind), printable(user.identities[kind])] for kind in sorted(user.identities)],
        ),
        (
            ["consent", "purpose", "state"],
            [
                [
                    printable(each.regulation),
                    printable(each.purpose),
                    word_of(ConsentState, each.state),
                ]
                for each in user.consents
            ],
        ),
    ]
    out = console()
    for index, (header, rows) in enumerate(table for table in tables if table[1]):
        if index:
            print(file=out.file)
        show_table(out, header, rows)
