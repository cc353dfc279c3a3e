"""Revision tokens: a store, its revision and a signature, opaque to callers.

A token of another store, for example from before a restore, is refused rather than compared. The signature
keeps callers from asking for a revision that nobody was given, and from waiting for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from engine.errors import InvalidInput
from engine.resources.signing import SIGNATURE_BYTES, Signer

_TOKEN = re.compile(rf"([0-9a-zA-Z_-]+\.[0-9a-f]{{1,16}})\.([0-9a-f]{{{2 * SIGNATURE_BYTES}}})", re.ASCII)
TOKEN_CHARACTERS_MAX = 128


def revision_token(store_id: str, revision: int, signer: Signer | None) -> str:
    """The token for a revision; without a signer it is for people to read, and reads refuse it."""
    body = f"{store_id}.{revision:x}"
    return body if signer is None else f"{body}.{signer.sign(_signed_part(body)).hex()}"


class Revisions:
    """The revision tokens of an open store. `latest` gives its latest revision."""

    def __init__(self, store_id: str, signer: Signer, latest: Callable[[], int]) -> None:
        self._store_id = store_id
        self._signer = signer
        self._latest = latest
        # Replaced as a whole, so that a revision never gets the token of another.
        self._last_signed = (0, revision_token(store_id, 0, signer))

    def token(self, revision: int, store_id: str = "") -> str:
        """The token for a revision of the store, or of another one, whose revisions reads refuse. That of the
        last one is kept: most reads ask for it.
        """
        if store_id:
            return revision_token(store_id, revision, self._signer)
        signed, token = self._last_signed
        if signed != revision:
            token = revision_token(self._store_id, revision, self._signer)
            self._last_signed = revision, token
        return token

    def revision(self, token: str, *, field: str = "at_least") -> int:
        """The revision of a token. An empty token gives 0, which every state satisfies.

        Raises InvalidInput with reason INVALID_REVISION for a token that this store did not hand out, or that
        it handed out before its files were replaced by older ones.
        """
        if not token:
            return 0
        match = _TOKEN.fullmatch(token) if len(token) <= TOKEN_CHARACTERS_MAX else None
        if match is None or not self._signer.is_signed(_signed_part(match[1]), bytes.fromhex(match[2])):
            raise InvalidInput.one(field, "is not a revision of this store", reason="INVALID_REVISION")
        store_id, _, revision = match[1].partition(".")
        if store_id != self._store_id or int(revision, 16) > self._latest():
            raise InvalidInput.one(field, "is not a revision of this store", reason="INVALID_REVISION")
        return int(revision, 16)


def _signed_part(body: str) -> bytes:
    return f"revision{body}".encode()
