"""The header of a store: what is fixed when it is created, the same in both environments."""

from __future__ import annotations

import msgspec

from engine.errors import StoreUnavailable
from engine.local.keys import Family, key
from engine.local.storage.environment import Environment

FORMAT_VERSION = 5

GROUPS_DEFAULT = 16
GROUPS_MAX = 64

STORE_ID_BYTES = 16
SEED_BITS = 64

_HEADER_KEY = key(Family.META, b"header")


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
    its format is not this version's.
    """
    with environment.reading() as txn:
        stored = txn.get(_HEADER_KEY)
        if stored is None:
            return None
        fields = msgspec.msgpack.decode(stored)
    if fields.get("format_version") != FORMAT_VERSION:
        raise StoreUnavailable(
            f"the store has format version {fields.get('format_version')}, this build reads {FORMAT_VERSION}",
            reason="STORE_FORMAT",
        )
    return msgspec.convert(fields, StoreHeader)


def write_header(environment: Environment, header: StoreHeader) -> None:
    """Writes the header of an environment."""
    with environment.writing() as txn:
        txn.put(_HEADER_KEY, msgspec.msgpack.encode(header))
