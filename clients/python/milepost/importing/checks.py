"""Checks before a row is sent. A fault is one error, not one for each row."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence, Set

from milepost import names
from milepost._existing import inputs, no_account
from milepost._near import did_you_mean, listed
from milepost.client import Client
from milepost.errors import NotFound, PermissionDenied
from milepost.importing.errors import CannotBegin, CannotImport, CannotUse
from milepost.importing.profiles import PROFILES
from milepost.importing.settings import EXCLUDE, FLATTEN, UNNAMED
from milepost.importing.source import Source
from milepost.importing.user_settings import AnySettings
from milepost.v1.account_pb2 import Account

_PATTERN_CHARACTERS = frozenset("*?[")


def check_target(client: Client, settings: AnySettings) -> Account:
    """The account, after checking that it and the input exist. Raises CannotBegin, which lists those that do,
    and the errors of the calls. A caller who may only ingest gets an account without its time of creation.
    """
    if not settings.input and not settings.input_column:
        raise CannotUse(
            f"{settings.rows_are} need an input: --input WORKSPACE/INPUT, or --input-column with a column of"
            f" full names.{listed('inputs of the account', inputs(client))}"
        )
    if settings.input and (fault := fault_of_input(settings.input)):
        raise CannotUse(f"{fault}.{listed('inputs', inputs(client))}")
    try:
        account = client.get_account()
    except NotFound:
        raise CannotBegin(f"{no_account(client)} --create makes it") from None
    except PermissionDenied:
        return Account(name=client.account_name)
    if settings.input:
        _check_input(client, settings.input)
    return account


def _check_input(client: Client, name: str) -> None:
    try:
        client.get_input(name)
    except NotFound:
        found = inputs(client)
        raise CannotBegin(
            f"input {name!r} does not exist in account {client.account_id!r}"
            f"{did_you_mean(name, found) or '.'}{listed('inputs', found)} --create makes it"
        ) from None
    except PermissionDenied:
        pass


def fault_of_input(name: str) -> str:
    """What is wrong with the name of an input; empty if nothing is."""
    parts = names.short_input(name).split("/")
    if len(parts) == 2 and all(map(names.is_id, parts)):
        return ""
    rule = f" (each {names.ID_RULE})" if len(parts) == 2 else ""
    return f"--input must be WORKSPACE/INPUT{rule}, not {name!r}"


def check_columns(source: Source, settings: AnySettings, *, kinds: bool = True) -> None:
    """Raises CannotImport if the file lacks a column that rows need or that the settings name. `kinds`: also
    check the attributes that the settings give a kind, and what they leave out or take apart.
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
        faults += unused_options(source.shaping.used, columns, settings)
    if faults:
        said = "; ".join(faults)
        raise CannotImport(f"{said}{'' if said.endswith('?') else '.'}{listed('columns', columns)}")


def unknown_kinds(columns: Sequence[str], settings: AnySettings) -> list[str]:
    """Faults of `--column` options that name none of the attributes among these columns."""
    own = {*settings.text_columns, settings.time_column}
    return [
        f"--column {name}: "
        + (
            "is not an attribute"
            if name in own
            else f"there is no column {name!r}{did_you_mean(name, columns)}"
        )
        for name in settings.kinds
        if name not in columns or name in own
    ]


def unused_options(used: Set[tuple[str, str]], columns: Sequence[str], settings: AnySettings) -> list[str]:
    """Faults of `--exclude` and `--flatten` options that did nothing to a file with these columns."""
    faults = []
    for option, name in given_options(settings):
        if (option, name) in used:
            continue
        if option == FLATTEN:
            fault = f"there is no object {name!r}"
        elif name in settings.own_columns:
            fault = "is not an attribute"
        elif name == UNNAMED:
            fault = "every column has a name"
        elif set(name) & _PATTERN_CHARACTERS:
            fault = f"no column is like {name!r}"
        else:
            fault = f"there is no column {name!r}{did_you_mean(name, columns)}"
        faults.append(f"{option} {shlex.quote(name)}: {fault}")
    return faults


def given_options(settings: AnySettings) -> Iterator[tuple[str, str]]:
    """The `--exclude` and `--flatten` options that the caller gave, not those of a profile."""
    for pattern in settings.exclude:
        yield EXCLUDE, pattern
    of_profile = PROFILES.get(settings.profile, {}).get("flatten", ())
    for path in settings.flatten:
        if path not in of_profile:
            yield FLATTEN, path
