"""Signatures of the tokens that callers bring back: page tokens and revisions.

They are HMACs under a random secret of the store, so a token that the store never handed out is refused
before anything in it is read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import suppress

from engine.backends.base import Documents
from engine.errors import LimitExceeded

SIGNATURE_BYTES = 16
_SECRET_BYTES = 32
_KEY = "token_secret"


class Signer:
    """Signs with a secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        """For other processes of the same service, and never disclosed to callers."""

    @classmethod
    def of_store(cls, documents: Documents) -> Signer:
        """Signs with the secret of a store, which is drawn on first use."""
        secret = documents.get(_KEY)
        if secret is None:
            secret = secrets.token_bytes(_SECRET_BYTES)
            # In a full store tokens last until the next start.
            with suppress(LimitExceeded):
                documents.commit({_KEY: secret})
        return cls(secret)

    def sign(self, body: bytes) -> bytes:
        """The signature of `body`, which starts with the kind of token so that kinds cannot be swapped."""
        return hmac.digest(self.secret, body, hashlib.sha256)[:SIGNATURE_BYTES]

    def is_signed(self, body: bytes, signature: bytes) -> bool:
        """Whether `signature` is that of `body`."""
        return hmac.compare_digest(self.sign(body), signature)
