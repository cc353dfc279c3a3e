"""The header of a store: the settings fixed at creation, the same in both environments."""

from __future__ import annotations

import secrets

import msgspec
import xxhash

from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import CHECKSUM_BYTES, ReadTransaction, Writable
from engine.errors import DataLoss, StoreUnavailable

FORMAT_VERSION = 6
UPGRADED_VERSION = 5
"""The version that `upgrade` can upgrade from."""

GROUPS_DEFAULT = 16
GROUPS_MAX = 64

STORE_ID_BYTES = 16
SEED_BITS = 64

HEADER = b"header"
"""Name of the record, in the family META, in any version."""

HEADER_KEY = key(Family.META, HEADER)


class StoreHeader(msgspec.Struct, frozen=True):
    """Written once, in both environments, when a store is created. `seed` keys the hashes of user ids and the
    order of partitions: 64 random bits that the store never discloses. `drawn_groups`: the seed also assigns
    partitions to groups; otherwise a group is a run of neighbouring partitions.
    """

    format_version: int
    store_id: str
    groups: int
    seed: int
    drawn_groups: bool = False


def new_store_id() -> str:
    """A new unique store id."""
    return secrets.token_hex(STORE_ID_BYTES)


def read_header(txn: ReadTransaction) -> StoreHeader | None:
    """The header that a transaction sees; None when there is none. Raises StoreUnavailable (STORE_FORMAT)
    when its format is not this version's, and DataLoss when it is damaged.
    """
    fields = _fields(txn)
    if fields is None:
        return None
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreUnavailable(other_format(version), reason="STORE_FORMAT")
    try:
        return msgspec.convert(fields, StoreHeader)
    except msgspec.MsgspecError as error:
        raise _damaged_header() from error


def read_store_id(txn: ReadTransaction) -> str | None:
    """The id in the header that a transaction sees, whatever its version; None when there is none."""
    fields = _fields(txn)
    return None if fields is None else str(fields.get("store_id"))


def old_version(txn: ReadTransaction) -> int | None:
    """The format version of an environment whose checksums do not cover keys, as up to version 5; None for
    any other.
    """
    fields = _old_fields(txn)
    version = None if fields is None else fields.get("format_version")
    return version if isinstance(version, int) else None


def _fields(txn: ReadTransaction) -> dict[str, object] | None:
    if txn.unverified(HEADER_KEY) is None:
        # The caller knows whether there should be a header.
        return None
    fields = _old_fields(txn)
    if fields is None:
        stored = txn.get(HEADER_KEY)
        fields = None if stored is None else _decoded(stored)
    return fields


def _old_fields(txn: ReadTransaction) -> dict[str, object] | None:
    stored = txn.unverified(HEADER_KEY)
    if stored is None or xxhash.xxh3_64_digest(stored[CHECKSUM_BYTES:]) != stored[:CHECKSUM_BYTES]:
        return None
    return _decoded(stored[CHECKSUM_BYTES:])


def _decoded(value: bytes | memoryview) -> dict[str, object]:
    try:
        return msgspec.msgpack.decode(value, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise _damaged_header() from error


def _damaged_header() -> DataLoss:
    return DataLoss("the header cannot be decoded", metadata={"key_family": Family.META.name})


def other_format(version: object) -> str:
    """Why a store of another format version is refused, and the way on."""
    message = f"the store has format version {version}; this build reads {FORMAT_VERSION}"
    if version == UPGRADED_VERSION:
        return (
            f"{message}: start the service on it, or run `milepost store upgrade`, which rewrites the store"
        )
    return f"{message} and upgrades {UPGRADED_VERSION}: use the version of Milepost that wrote it"


def write_header(txn: Writable, header: StoreHeader) -> None:
    """Writes the header of an environment."""
    txn.put(HEADER_KEY, msgspec.msgpack.encode(header))
