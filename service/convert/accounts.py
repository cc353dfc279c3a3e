"""Accounts, workspaces and inputs, in both directions."""

from __future__ import annotations

from engine.errors import InvalidInput
from engine.limits import QUOTA_FIELDS, Quotas
from engine.resources.records import Account, Input, InputKind, Workspace, etag_of
from milepost.v1 import account_pb2
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message, timestamp

UNKNOWN_INPUT_KIND = "is not an input kind"

_INPUT_KIND_MESSAGES = numbers_of(account_pb2.InputKind, InputKind)
_INPUT_KINDS = members_of(account_pb2.InputKind, InputKind)


def account_of_message(message: account_pb2.Account) -> Account:
    """The record of an account. The engine fills in defaults. Raises InvalidInput."""
    faults = ShapeFaults()
    retention = duration(message.event_retention, "account.event_retention", faults)
    faults.raise_if_any()
    return Account(
        name=message.name,
        display_name=message.display_name,
        active_audience_limit=message.active_audience_limit,
        time_zone=message.time_zone,
        event_retention=retention,
        quotas=Quotas(**{name: getattr(message.quotas, name) for name in QUOTA_FIELDS}),
    )


def account_message(account: Account, active_audience_count: int) -> account_pb2.Account:
    """The message of an account."""
    message = account_pb2.Account(
        name=account.name,
        display_name=account.display_name,
        active_audience_limit=account.active_audience_limit,
        time_zone=account.time_zone,
        active_audience_count=active_audience_count,
        create_time=timestamp(account.create_time),
        update_time=timestamp(account.update_time),
        etag=etag_of(account),
        quotas=account_pb2.AccountQuotas(
            **{name: getattr(account.quotas.effective(), name) for name in QUOTA_FIELDS}
        ),
    )
    if account.event_retention:
        message.event_retention.CopyFrom(duration_message(account.event_retention))
    return message


def workspace_of_message(message: account_pb2.Workspace) -> Workspace:
    """The record of a workspace."""
    return Workspace(name=message.name, display_name=message.display_name)


def workspace_message(workspace: Workspace) -> account_pb2.Workspace:
    """The message for a workspace."""
    return account_pb2.Workspace(
        name=workspace.name,
        display_name=workspace.display_name,
        create_time=timestamp(workspace.create_time),
        update_time=timestamp(workspace.update_time),
        etag=etag_of(workspace),
    )


def input_of_message(message: account_pb2.Input) -> Input:
    """The record of an input. Raises InvalidInput."""
    kind = _INPUT_KINDS.get(message.kind)
    if kind is None:
        raise InvalidInput.one("input.kind", UNKNOWN_INPUT_KIND)
    return Input(name=message.name, display_name=message.display_name, kind=kind)


def input_message(input_: Input) -> account_pb2.Input:
    """The message for an input."""
    return account_pb2.Input(
        name=input_.name,
        display_name=input_.display_name,
        kind=_INPUT_KIND_MESSAGES[input_.kind],
        create_time=timestamp(input_.create_time),
        update_time=timestamp(input_.update_time),
        etag=etag_of(input_),
    )
