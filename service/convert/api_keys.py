"""API keys, in both directions."""

from __future__ import annotations

from engine.resources.records import ApiKey, Scope, etag_of
from milepost.v1 import account_pb2
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.times import instant, timestamp

UNKNOWN_SCOPE = "is not a scope"

_SCOPE_MESSAGES = numbers_of(account_pb2.Scope, Scope)
_SCOPES = members_of(account_pb2.Scope, Scope)


def api_key_of_message(message: account_pb2.ApiKey) -> ApiKey:
    """The record of an API key, without its secret. Raises InvalidInput."""
    faults = ShapeFaults()
    expire_time = 0
    if message.HasField("expire_time"):
        expire_time = instant(message.expire_time, "api_key.expire_time", faults)
    for index, number in enumerate(message.scopes):
        if number not in _SCOPES:
            faults.add(f"api_key.scopes[{index}]", UNKNOWN_SCOPE)
    faults.raise_if_any()
    return ApiKey(
        name=message.name,
        display_name=message.display_name,
        scopes=tuple(_SCOPES[number] for number in message.scopes),
        expire_time=expire_time,
        calls_per_second_max=message.calls_per_second_max,
        in_flight_max=message.in_flight_max,
    )


def api_key_message(key: ApiKey) -> account_pb2.ApiKey:
    """The message of an API key."""
    message = account_pb2.ApiKey(
        name=key.name,
        display_name=key.display_name,
        scopes=[_SCOPE_MESSAGES[scope] for scope in key.scopes],
        calls_per_second_max=key.calls_per_second_max,
        in_flight_max=key.in_flight_max,
        create_time=timestamp(key.create_time),
        update_time=timestamp(key.update_time),
        etag=etag_of(key),
    )
    if key.expire_time:
        message.expire_time.CopyFrom(timestamp(key.expire_time))
    if key.previous_expire_time:
        message.previous_secret_expire_time.CopyFrom(timestamp(key.previous_expire_time))
    return message
