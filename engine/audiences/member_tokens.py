"""Page tokens of lists of members."""

from __future__ import annotations

import msgspec

from engine.resources.paging import Pages
from engine.values import Micros


class Place(msgspec.Struct, frozen=True, array_like=True):
    """The position of a walk through the members, and the instant it is evaluated at."""

    after: str
    as_of: Micros


class MemberTokens:
    """The tokens of walks. One is valid for the audience, by the name that it was asked for, and the instant
    that was asked for (None = now).
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def token(self, name: str, asked_as_of: Micros | None, place: Place) -> str:
        """The token of the page at a place; "" for the end."""
        return self._pages.encode(_question(name, asked_as_of), place) if place.after else ""

    def place(self, name: str, asked_as_of: Micros | None, token: str) -> Place:
        """The place in a token. Raises InvalidInput for one that was not handed out for this."""
        return self._pages.decode(_question(name, asked_as_of), token, Place)


def _question(name: str, asked_as_of: Micros | None) -> tuple[str, str, Micros | None]:
    return ("list_members", name, asked_as_of)
