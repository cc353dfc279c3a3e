"""The header of a store: what is fixed when it is created, the same in both environments."""

from __future__ import annotations

import msgspec
import xxhash

from engine.errors import StoreUnavailable
from engine.local.keys import Family, key
from engine.local.storage.environment import Environment
from engine.local.storage.transactions import CHECKSUM_BYTES

FORMAT_VERSION = 6
UPGRADED_VERSION = 5
"""The version that `upgrade` makes the present one of."""

GROUPS_DEFAULT = 16
GROUPS_MAX = 64

STORE_ID_BYTES = 16
SEED_BITS = 64

HEADER_KEY = key(Family.META, b"header")
"""Where the header is stored, in any version."""


class StoreHeader(msgspec.Struct, frozen=True):
    """What is written once, in both environments, when a store is created. `seed` keys the hashes of user
    ids and the order of partitions: 64 random bits that the store tells nobody. `drawn_groups` says whether
    the seed also decides which partitions form a group; without it they are neighbours.
    """

    format_version: int
    store_id: str
    groups: int
    seed: int
    drawn_groups: bool = False


def read_header(environment: Environment) -> StoreHeader | None:
    """The header of an environment, None when there is none yet. Raises StoreUnavailable (STORE_FORMAT) when
    its format is not this version's, DataLoss when it is damaged.
    """
    version = old_version(environment)
    if version is None:
        with environment.reading() as txn:
            stored = txn.get(HEADER_KEY)
            if stored is None:
                return None
            fields = msgspec.msgpack.decode(stored)
        version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreUnavailable(_other_format(version), reason="STORE_FORMAT")
    return msgspec.convert(fields, StoreHeader)


def old_version(environment: Environment) -> int | None:
    """The format version of an environment whose checksums do not cover keys, as up to version 5; None for
    any other.
    """
    stored = environment.stored(HEADER_KEY)
    if stored is None or xxhash.xxh3_64_digest(stored[CHECKSUM_BYTES:]) != stored[:CHECKSUM_BYTES]:
        return None
    version = msgspec.msgpack.decode(stored[CHECKSUM_BYTES:]).get("format_version")
    return version if isinstance(version, int) else None


def _other_format(version: object) -> str:
    message = f"the store has format version {version}, this build reads {FORMAT_VERSION}"
    if version == UPGRADED_VERSION:
        return (
            f"{message}: start the service on it, or run `milepost store upgrade`, which rewrites the store"
        )
    return message


def write_header(environment: Environment, header: StoreHeader) -> None:
    """Writes the header of an environment."""
    with environment.writing() as txn:
        txn.put(HEADER_KEY, msgspec.msgpack.encode(header))
