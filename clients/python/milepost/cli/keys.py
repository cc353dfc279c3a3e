"""`milepost key`: the API keys of an account, and with --operator those over all accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_json, show_many, show_one
from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import DisplayName, Etag, changes, faults_by_option, given
from milepost.cli.text import moment, number
from milepost.cli.words import choice, value_of, word_of, words_of
from milepost.v1.account_pb2 import SCOPE_OPERATOR, ApiKey, Scope
from milepost.v1.account_service_pb2 import CreateApiKeyResponse, RotateApiKeyResponse

SHOWN_ONCE = "The secret is shown only now. Send it with every call, for example in MILEPOST_API_KEY."

app = typer.Typer(
    help="Create, list, edit, rotate and delete API keys. `milepost init` makes the first one.",
    no_args_is_help=True,
    cls=Group,
)

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="The key's id or name.")]
Operator = Annotated[bool, typer.Option("--operator", help="A key of operators, over all accounts.")]


@dataclass(frozen=True)
class KeyFields:
    """What can be chosen of a key."""

    scope: Annotated[
        list[int] | None,
        typer.Option(
            parser=partial(value_of, Scope),
            metavar=choice(words_of(Scope)),
            help="What the key permits. May be repeated. An operator's key has the scope operator.",
        ),
    ] = None
    display_name: DisplayName = None
    expires: Annotated[
        timedelta | None,
        typer.Option(metavar="DURATION", parser=to_length, help="How long it is valid from now, like 90d."),
    ] = None
    calls_per_second_max: Annotated[
        int | None, typer.Option(min=0, help="Maximum calls per second; for operators. 0 = the server's.")
    ] = None
    in_flight_max: Annotated[
        int | None, typer.Option(min=0, help="Maximum running calls; for operators. 0 = the server's.")
    ] = None


@app.command("list")
@grouped
def list_(operator: Operator = False, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """List keys, without their secrets."""
    with account.open() as client:
        show_many(
            client.list_api_keys(operator=operator),
            ["key", "name", "scopes", "expires", "created"],
            _row,
            as_json=as_json,
        )


@app.command()
@grouped
def show(
    key: KeyName, operator: Operator = False, as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Show a key, without its secret."""
    with account.open() as client:
        show_one(client.get_api_key(_name(key, operator)), _facts, as_json=as_json)


@app.command()
@grouped
def create(
    key: KeyName,
    chosen: KeyFields,
    operator: Operator = False,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create a key. Its secret is shown only once."""
    if not operator and not chosen.scope:
        words = ", ".join(word for word in words_of(Scope) if word != word_of(Scope, SCOPE_OPERATOR))
        raise typer.BadParameter(f"give at least one of {words}, or --operator", param_hint="--scope")
    with account.open() as client, faults_by_option():
        made = client.create_api_key(key, operator=operator, **_fields(given(chosen)))
        show_secret(made, as_json=as_json)


@app.command()
@grouped
def edit(
    key: KeyName,
    chosen: KeyFields,
    operator: Operator = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change what is given of a key. Its secret stays."""
    fields = _fields(changes(chosen))
    with account.open() as client, faults_by_option():
        changed = client.update_api_key(_name(key, operator), etag=etag, **fields)
        show_one(changed, _facts, as_json=as_json)


@app.command()
@grouped
def rotate(
    key: KeyName,
    overlap: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=to_length,
            help="How long the previous secret stays valid, like 1h. 0s: not at all. Default: 24h.",
        ),
    ] = None,
    operator: Operator = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Give a key a new secret, which is shown only once."""
    with account.open() as client, faults_by_option():
        rotated = client.rotate_api_key(_name(key, operator), overlap=overlap, etag=etag)
        show_secret(rotated, as_json=as_json)


@app.command()
@grouped
def delete(key: KeyName, operator: Operator = False, etag: Etag = "", *, account: AccountOptions) -> None:
    """Delete a key: calls with it fail at once."""
    with account.open() as client:
        name = client.api_key_name(_name(key, operator))
        client.delete_api_key(name, etag=etag)
        print(f"deleted {name}")


def _name(key: str, operator: bool) -> str:
    return names.operator_key(key) if operator and "/" not in key else key


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """The client's arguments for these options."""
    if "scope" in options:
        options["scopes"] = options.pop("scope")
    if "expires" in options:
        options["expire_time"] = datetime.now(UTC) + options.pop("expires")
    return options


def show_secret(made: CreateApiKeyResponse | RotateApiKeyResponse, *, as_json: bool) -> None:
    """Prints a key with its new secret."""
    if as_json:
        show_json(made)
        return
    show_one(made.api_key, lambda key: [*_facts(key), ("secret", made.secret)], as_json=False)
    print(SHOWN_ONCE)


def _row(key: ApiKey) -> list[str]:
    return [names.last_id(key.name), key.display_name, _scopes(key), _expires(key), moment(key.create_time)]


def _facts(key: ApiKey) -> Facts:
    overlap = key.HasField("previous_secret_expire_time")
    return [
        ("key", key.name),
        ("name", key.display_name),
        ("scopes", _scopes(key)),
        ("expires", _expires(key)),
        ("calls per second", number(key.calls_per_second_max) if key.calls_per_second_max else ""),
        ("running calls", number(key.in_flight_max) if key.in_flight_max else ""),
        ("previous secret until", moment(key.previous_secret_expire_time) if overlap else ""),
        ("created", moment(key.create_time)),
        ("updated", moment(key.update_time)),
    ]


def _scopes(key: ApiKey) -> str:
    return ", ".join(word_of(Scope, scope) for scope in key.scopes)


def _expires(key: ApiKey) -> str:
    return moment(key.expire_time) if key.HasField("expire_time") else "never"
