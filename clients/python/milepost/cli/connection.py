"""Where commands connect to, and how they tell what went wrong."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from milepost.client import DEFAULT_TARGET, Client
from milepost.errors import MilepostError, Unavailable

Target = Annotated[
    str, typer.Option("--target", envvar="MILEPOST_TARGET", help="Address of the service, host:port.")
]
AccountId = Annotated[str, typer.Option("--account", envvar="MILEPOST_ACCOUNT", help="Account of the ids.")]
ApiKey = Annotated[
    str,
    typer.Option("--api-key", envvar="MILEPOST_API_KEY", help="Secret of an API key."),
]
DEFAULT_ACCOUNT = "demo"

__all__ = ["DEFAULT_ACCOUNT", "DEFAULT_TARGET", "AccountId", "ApiKey", "Group", "Target", "open_client"]


class Group(TyperGroup):
    """A group of commands that tells a refusal by the service in words, with exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except MilepostError as error:
            print(f"milepost: {error}", file=sys.stderr)
            if isinstance(error, Unavailable):
                print("milepost: is the service running? `milepost serve` starts one", file=sys.stderr)
            raise typer.Exit(1) from error


def open_client(target: str, account: str, api_key: str) -> Client:
    """A client for one command."""
    return Client(target, account=account, api_key=api_key or None)
