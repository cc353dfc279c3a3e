"""Pages of lists, and the opaque page tokens.

A token holds the position and a digest of the query (method, parent, filters), so it is valid for
that query only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

import msgspec
import xxhash

from engine.errors import InvalidInput
from engine.resources.records import Record

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Key: TypeAlias = tuple[str | int, ...]
"""Sort key of an item."""
Question: TypeAlias = tuple[str | int | None, ...]
"""Method, parent and filters that a token is bound to."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list and the token of the next page ("" = last page)."""

    items: tuple[T, ...]
    next_page_token: str


def page_size_of(page_size: int) -> int:
    """The effective page size: 0 = default, capped at the maximum. Raises InvalidInput when negative."""
    if page_size < 0:
        raise InvalidInput.one("page_size", "must not be negative")
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def encode_token(question: Question, position: object) -> str:
    """A token for `position` in the answer to `question`."""
    body = msgspec.msgpack.encode([_digest(question), position])
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def decode_token(question: Question, token: str, position_type: type[T]) -> T:
    """The position in a token. Raises InvalidInput when the token belongs to another query."""
    try:
        body = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, position = msgspec.msgpack.decode(body, type=tuple[str, msgspec.Raw])
        if digest != _digest(question):
            raise bad_token()
        return msgspec.msgpack.decode(position, type=position_type)
    except (binascii.Error, ValueError) as error:
        raise bad_token() from error


def bad_token() -> InvalidInput:
    """The error for an invalid token."""
    return InvalidInput.one(
        "page_token", "does not belong to this method and request", reason="INVALID_PAGE_TOKEN"
    )


def _digest(question: Question) -> str:
    return xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(question))


def page_of(
    items: Iterable[T],
    key: Callable[[T], Key],
    question: Question,
    *,
    page_size: int,
    page_token: str,
    descending: bool = False,
) -> Page[T]:
    """The page of `items`, in order of `key`, that follows the token.

    `key` is unique, so paging continues correctly when items are added or removed.
    """
    size = page_size_of(page_size)
    ordered = sorted(((key(item), item) for item in items), key=lambda pair: pair[0], reverse=descending)
    if page_token:
        after = decode_token(question, page_token, tuple[str | int, ...])
        try:
            ordered = [pair for pair in ordered if (pair[0] < after if descending else pair[0] > after)]
        except TypeError as error:
            raise bad_token() from error
    chosen = ordered[:size]
    more = len(ordered) > size
    token = encode_token(question, chosen[-1][0]) if more else ""
    return Page(tuple(item for _, item in chosen), token)


def page_by_name(records: Iterable[R], question: Question, *, page_size: int, page_token: str) -> Page[R]:
    """The page of records in order of name."""
    return page_of(
        records, lambda record: (record.name,), question, page_size=page_size, page_token=page_token
    )
