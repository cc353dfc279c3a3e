"""What can be found wrong before a row is sent: each of it one error, not one for every row."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from milepost.client import Client
from milepost.errors import MilepostError, NotFound, PermissionDenied
from milepost.importing.errors import CannotBegin, CannotImport
from milepost.importing.source import Source
from milepost.importing.user_settings import AnySettings
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import GetInputRequest, ListAccountsRequest, ListInputsRequest

LISTED_MAX = 20
"""Names that a message lists; of more it says only how many there are."""


def check_target(client: Client, settings: AnySettings) -> Account:
    """The account, which exists, as does the input. Raises CannotBegin, which names those that exist, and
    what calls raise. A caller who may only ingest gets an account without its time of creation.
    """
    if not settings.input and not settings.input_column:
        raise CannotBegin(
            f"{settings.rows_are} need an input: --input WORKSPACE/INPUT, or --input-column with a column of"
            f" full names.{_listed('inputs of the account', _inputs(client))}"
        )
    try:
        account = client.get_account()
    except NotFound:
        ids = _accounts(client)
        raise CannotBegin(
            f"account {client.account_id!r} does not exist{did_you_mean(client.account_id, ids) or '.'}"
            f"{_listed('accounts', ids)} --create makes it"
        ) from None
    except PermissionDenied:
        return Account(name=client.account_name)
    if settings.input:
        _check_input(client, settings.input)
    return account


def _check_input(client: Client, name: str) -> None:
    try:
        full_name = client.input_name(name)
    except ValueError:
        raise CannotBegin(
            f"--input must be WORKSPACE/INPUT, not {name!r}.{_listed('inputs', _inputs(client))}"
        ) from None
    try:
        client.accounts.GetInput(GetInputRequest(name=full_name))
    except NotFound:
        found = _inputs(client)
        raise CannotBegin(
            f"input {name!r} does not exist in account {client.account_id!r}"
            f"{did_you_mean(name, found) or '.'}{_listed('inputs', found)} --create makes it"
        ) from None
    except PermissionDenied:
        pass


def check_columns(source: Source, settings: AnySettings, *, kinds: bool = True) -> None:
    """Raises CannotImport when a column that a row needs, or that the settings name, is not in the file;
    with `kinds` also for attributes whose kind they give.
    """
    columns = source.columns
    if columns is None:
        return
    faults = [
        f"there is no column {column!r}{did_you_mean(column, columns)} ({option})"
        for option, column in settings.named_columns(only_needed=not source.has_all_columns)
        if column not in columns
    ]
    if kinds and source.has_all_columns:
        faults += unknown_kinds(columns, settings)
    if faults:
        said = "; ".join(faults)
        raise CannotImport(f"{said}{'' if said.endswith('?') else '.'}{_listed('columns', columns)}")


def unknown_kinds(columns: Sequence[str], settings: AnySettings) -> list[str]:
    """What is wrong with `--column` options that name no attribute among these columns."""
    own = {*settings.text_columns, settings.time_column}
    return [
        f"--column {name}: "
        + ("is no attribute" if name in own else f"there is no column {name!r}{did_you_mean(name, columns)}")
        for name in settings.kinds
        if name not in columns or name in own
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" for the known name that is nearest; nothing when none is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), 1)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return f" There are no {what}."
    more = f" and {len(names) - LISTED_MAX:,} more" if len(names) > LISTED_MAX else ""
    return f" The {what}: {', '.join(map(repr, names[:LISTED_MAX]))}{more}."


def _accounts(client: Client) -> list[str]:
    try:
        pages = client.pages(client.accounts.ListAccounts, ListAccountsRequest())
        return [each.name.partition("/")[2] for page in pages for each in page.accounts]
    except MilepostError:
        return []


def _inputs(client: Client) -> list[str]:
    """All inputs of the account, as WORKSPACE/INPUT; none where there is no right to see them."""
    parent = f"{client.account_name}/workspaces/-"
    try:
        pages = client.pages(client.accounts.ListInputs, ListInputsRequest(parent=parent))
        names = [each.name.split("/") for page in pages for each in page.inputs]
    except MilepostError:
        return []
    return [f"{parts[3]}/{parts[5]}" for parts in names]
