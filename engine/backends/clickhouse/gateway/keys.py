"""The keys of what a gateway keeps about its cluster, in the index: records of the family META.

======================  ====================================================================================
name                    value
======================  ====================================================================================
`cluster/owner`         MessagePack of `owner.Owner`
`cluster/behind`        MessagePack: replica → revision up to which it has all rows
`cluster/account/NAME`  MessagePack of `account_rows.AccountRows`
`cluster/entry/N`       compressed MessagePack of an entry that some replica lacks; N is its revision, 8
                        bytes, big-endian
======================  ====================================================================================
"""

from __future__ import annotations

from engine.backends.local.storage.keys import CLUSTER, Family, key

OWNER = key(Family.META, CLUSTER + b"owner")
BEHIND = key(Family.META, CLUSTER + b"behind")
ACCOUNTS = key(Family.META, CLUSTER + b"account/")
ENTRIES = key(Family.META, CLUSTER + b"entry/")
REVISION_BYTES = 8


def account_key(account: str) -> bytes:
    """The key of an account's rows."""
    return ACCOUNTS + account.encode()


def account_of(stored: bytes) -> str:
    """The inverse of `account_key`."""
    return stored[len(ACCOUNTS) :].decode()


def entry_key(revision: int) -> bytes:
    """The key of an entry."""
    return ENTRIES + revision.to_bytes(REVISION_BYTES, "big")


def revision_of(stored: bytes) -> int:
    """The inverse of `entry_key`."""
    return int.from_bytes(stored[len(ENTRIES) :], "big")
