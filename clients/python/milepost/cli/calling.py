"""How commands call the service: the options for it, and the messages of errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from milepost import names
from milepost._channel import API_KEY_VARIABLE, fault_of_target
from milepost._existing import nearest_resource, no_account
from milepost.cli.defaults import ACCOUNT_VARIABLE, DEFAULT_ACCOUNT
from milepost.cli.ways_on import creates_account, way_on
from milepost.client import DEFAULT_TARGET, Client
from milepost.errors import MilepostError, NotFound
from milepost.tls import TLS

AccountId = Annotated[
    str,
    typer.Option(
        "--account",
        envvar=ACCOUNT_VARIABLE,
        help="Account to use; short names and ids belong to it. `milepost account create` makes one.",
    ),
]
EXIT_USAGE = 2
"""The status of a command with an option that cannot be used."""

__all__ = [
    "DEFAULT_ACCOUNT",
    "DEFAULT_TARGET",
    "EXIT_USAGE",
    "AccountId",
    "AccountOptions",
    "Group",
    "ServiceOptions",
]


class Group(TyperGroup):
    """A group of commands that prints the service's errors and exits with status 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses an option before the name of the command. People write `milepost --account acme ...`."""
        option = args[0].partition("=")[0] if args else ""
        if option.startswith("-") and option not in {
            each for own in self.get_params(ctx) for each in own.opts
        }:
            raise typer.BadParameter(f"no option {option} here: a command's options come after it", ctx=ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except MilepostError as error:
            print(f"milepost: {error}", file=sys.stderr)
            if hint := way_on(error):
                print(f"milepost: {hint}", file=sys.stderr)
            raise typer.Exit(1) from error


@dataclass(frozen=True)
class ServiceOptions:
    """The options of a command that calls the service for no account."""

    target: Annotated[
        str, typer.Option(envvar="MILEPOST_TARGET", help="Address of the service, host:port.")
    ] = DEFAULT_TARGET
    api_key: Annotated[str, typer.Option(envvar=API_KEY_VARIABLE, help="Secret of an API key.")] = ""
    tls: Annotated[
        bool, typer.Option("--tls", envvar="MILEPOST_TLS", help="Encrypt. The files below imply it.")
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="MILEPOST_TLS_CA", help="PEM file with the CA of the service's certificate."),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="MILEPOST_TLS_CERT", help="PEM file with this client's certificate."),
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(envvar="MILEPOST_TLS_KEY", help="PEM file with the key of --tls-cert.")
    ] = None

    def open(self) -> AbstractContextManager[Client]:
        """A client for one command."""
        return self.open_for(DEFAULT_ACCOUNT)

    @contextmanager
    def open_for(self, account: str) -> Iterator[Client]:
        """A client for one command and an account. Where the account is at fault, the message says so, and
        not that something in it does not exist.
        """
        if not names.is_id(names.last_id(account)):
            _refuse(f"the account's id {names.ID_RULE}, not {account!r}")
        if fault := fault_of_target(self.target):
            tls = "; --tls encrypts" if self.target.lower().startswith("https") else ""
            _refuse(f"--target: {fault}{tls}")
        with Client(self.target, account=account, api_key=self.api_key, tls=self._tls()) as client:
            try:
                yield client
            except NotFound as error:
                if _has_account(client):
                    error.near = nearest_resource(client, error.metadata.get("resource", ""))
                    raise
                hint = creates_account(client.account_id, with_key=bool(self.api_key))
                print(f"milepost: {no_account(client)} {hint}", file=sys.stderr)
                raise typer.Exit(1) from error

    def _tls(self) -> TLS | bool:
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        if not any(files):
            return self.tls
        if (self.tls_cert is None) != (self.tls_key is None):
            _refuse("--tls-cert and --tls-key belong together: give both or none")
        for file in files:
            if file is not None and not file.is_file():
                _refuse(f"there is no file {file}")
        return TLS(*files)


@dataclass(frozen=True)
class AccountOptions(ServiceOptions):
    """The options of a command that calls the service for an account."""

    account: AccountId = DEFAULT_ACCOUNT

    def open(self) -> AbstractContextManager[Client]:
        """A client for one command."""
        return self.open_for(self.account)


def _refuse(why: str) -> NoReturn:
    """Ends a command with options that cannot be used."""
    print(f"milepost: {why}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def _has_account(client: Client) -> bool:
    """False when it is certain that the account does not exist."""
    try:
        client.get_account()
    except NotFound:
        return False
    except MilepostError:
        pass
    return True
