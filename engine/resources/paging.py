"""Pages of lists, and the opaque page tokens.

A token holds the position. The store signs it together with the query (method, parent, filters), so it is
valid for that query only and cannot be made up.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

import msgspec

from engine.errors import InvalidInput
from engine.resources.records import Record
from engine.resources.signing import SIGNATURE_BYTES, Signer

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


def bad_token() -> InvalidInput:
    """The error for an invalid token."""
    return InvalidInput.one(
        "page_token", "was not handed out for this method and request", reason="INVALID_PAGE_TOKEN"
    )


class Pages:
    """Makes pages and their tokens, signed by the store."""

    def __init__(self, signer: Signer, token_bytes_max: int) -> None:
        """Longer tokens than `token_bytes_max` are refused unread."""
        self._signer = signer
        self._token_bytes_max = token_bytes_max

    def encode(self, question: Question, position: object) -> str:
        """A token for `position` in the answer to `question`."""
        body = msgspec.msgpack.encode(position)
        signature = self._signer.sign(_signed_part(question, body))
        return _text(signature + body)

    def decode(self, question: Question, token: str, position_type: type[T]) -> T:
        """The position in a token. Raises InvalidInput for one not handed out for this question."""
        if len(token) > self._token_bytes_max:
            raise bad_token()
        try:
            signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError as error:
            raise bad_token() from error
        signature, body = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        # The last character has spare bits: each position has one token.
        if _text(signed) != token or not self._signer.is_signed(_signed_part(question, body), signature):
            raise bad_token()
        try:
            return msgspec.msgpack.decode(body, type=position_type)
        except msgspec.MsgspecError as error:
            # Handed out by another build.
            raise bad_token() from error

    def of(
        self,
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
            after = self.decode(question, page_token, tuple[str | int, ...])
            ordered = [pair for pair in ordered if (pair[0] < after if descending else pair[0] > after)]
        chosen = ordered[:size]
        more = len(ordered) > size
        token = self.encode(question, chosen[-1][0]) if more else ""
        return Page(tuple(item for _, item in chosen), token)

    def by_name(
        self, records: Iterable[R], question: Question, *, page_size: int, page_token: str
    ) -> Page[R]:
        """The page of records in order of name."""
        return self.of(
            records, lambda record: (record.name,), question, page_size=page_size, page_token=page_token
        )


def _text(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def _signed_part(question: Question, body: bytes) -> bytes:
    return b"page" + msgspec.msgpack.encode(question) + body
