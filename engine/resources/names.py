"""Ids and resource names: their form, and generation of new ids."""

from __future__ import annotations

import enum
import re
import secrets

from engine.errors import InvalidInput

ID_CHARACTERS_MAX = 63
ID_CHARACTERS_MADE = 12
ID_RULE = f"must be 1-{ID_CHARACTERS_MAX} of a-z, 0-9 and -, starting with a letter"

_ID = r"[a-z][a-z0-9-]{0,62}"
_ID_PATTERN = re.compile(_ID)
_NUMBER = r"[1-9][0-9]{0,11}"
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"

ANY = "-"
"""Wildcard id in the parent of a list."""


class Resource(enum.Enum):
    """Kinds of resource with the pattern of their names."""

    ACCOUNT = "accounts/{account}"
    WORKSPACE = "accounts/{account}/workspaces/{workspace}"
    INPUT = "accounts/{account}/workspaces/{workspace}/inputs/{input}"
    JOURNEY = "accounts/{account}/journeys/{journey}"
    MILESTONE = "accounts/{account}/journeys/{journey}/milestones/{milestone}"
    AUDIENCE = "accounts/{account}/audiences/{audience}"
    OUTPUT = "accounts/{account}/outputs/{output}"
    CONNECTION = "accounts/{account}/connections/{connection}"
    API_KEY = "accounts/{account}/apiKeys/{api_key}"
    OPERATOR_KEY = "apiKeys/{api_key}"
    JOURNEY_VERSION = "accounts/{account}/journeys/{journey}/versions/{number}"
    BACKUP = "backups/{backup}"


def _pattern(shape: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+\}", lambda part: _NUMBER if part[0] == "{number}" else _ID, shape))


_PATTERNS = {kind: _pattern(kind.value) for kind in Resource}


def is_name(name: str, *kinds: Resource) -> bool:
    """Whether `name` is a well-formed name of one of the kinds."""
    return any(_PATTERNS[kind].fullmatch(name) for kind in kinds)


def check_name(name: str, field: str, *kinds: Resource) -> None:
    """Raises InvalidInput for `field` unless `name` is a well-formed name of one of the kinds."""
    if not is_name(name, *kinds):
        shapes = " or ".join(kind.value for kind in kinds)
        problem = f"expected {shapes}, got {name!r}" if name else f"is required: {shapes}"
        raise InvalidInput.one(field, problem)


def is_id(text: str) -> bool:
    """Whether `text` is a well-formed id."""
    return _ID_PATTERN.fullmatch(text) is not None


def chosen_or_made_id(chosen: str, field: str) -> str:
    """The caller's id, or a new random one when it is empty. Raises InvalidInput when it is malformed."""
    if not chosen:
        return made_id()
    if not is_id(chosen):
        raise InvalidInput.one(field, ID_RULE)
    return chosen


def made_id() -> str:
    """A random id of 12 characters (about 60 bits), starting with a letter."""
    first = secrets.choice("abcdefghijkmnpqrstuvwxyz")
    return first + "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS_MADE - 1))
