"""The identities and attributes that a connection opts in to: as they are, or hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from engine.backends.base import Profile
from engine.resources.records import Connection
from engine.values import Micros, Value
from service.convert.times import rfc3339

ProfileOf = Callable[[str], Profile | None]

_NO_PROFILE = Profile(user_id="", seen={}, attributes={}, identities={}, consents={})
"""Of a user that was erased."""


def opted_in(connection: Connection, user_id: str, profile_of: ProfileOf) -> bytes:
    """Members of a JSON object, with a leading comma; empty when the connection opts in to nothing."""
    plain = connection.identities or connection.attributes
    hashed = connection.hashed_identities or connection.hashed_attributes
    if not plain and not hashed:
        return b""
    profile = profile_of(user_id) or _NO_PROFILE
    found: dict[str, Any] = {}
    if plain:
        found["identities"] = _identities(profile, connection.identities)
        found["attributes"] = _attributes(profile, connection.attributes)
    if hashed:
        identities = _identities(profile, connection.hashed_identities)
        attributes = _attributes(profile, connection.hashed_attributes)
        found["hashed_identities"] = {type_: hashed_value(value) for type_, value in identities.items()}
        found["hashed_attributes"] = {key: hashed_value(value) for key, value in attributes.items()}
    return b"," + msgspec.json.encode(found)[1:-1]


def hashed_value(value: Any) -> str | list[str]:
    """A value as advertising platforms match it: the hexadecimal SHA-256 of its text without surrounding
    white space, in lower case. A list is hashed by element, a number or bool by its JSON text.
    """
    if isinstance(value, list | tuple):
        return [_sha256(each) for each in value]
    return _sha256(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.strip().lower().encode()).hexdigest()


def _identities(profile: Profile, types: tuple[str, ...]) -> dict[str, str]:
    return {type_: profile.identities[type_][1] for type_ in types if type_ in profile.identities}


def _attributes(profile: Profile, keys: tuple[str, ...]) -> dict[str, Any]:
    """The selected attributes; for one in several workspaces, the value written last."""
    latest: dict[str, tuple[Micros, Value]] = {}
    for _, attributes in sorted(profile.attributes.items()):
        for key in keys:
            write = attributes.get(key)
            if write is not None and (key not in latest or write[0] > latest[key][0]):
                latest[key] = write
    return {key: _json_value(value) for key, (_, value) in latest.items()}


def _json_value(value: Value) -> Any:
    return rfc3339(value) if type(value) is int else value
