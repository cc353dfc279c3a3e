"""Checks headers, the log, resource records and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.backends.local.storage.header import FORMAT_VERSION, HEADER, StoreHeader
from engine.backends.local.storage.keys import CLUSTER, Family, key
from engine.backends.local.storage.name_table import FORGOTTEN, NO_ACCOUNT, Space, field_of
from engine.backends.local.storage.positions import (
    CHECKPOINTED,
    INSTANT,
    TRIMMED,
    CheckpointedState,
    decode_instant,
    decode_trimmed,
)
from engine.backends.local.storage.session import SESSION, Session, decode_session
from engine.backends.local.storage.transactions import COMMIT, COMMIT_BYTES
from engine.backends.local.storage.write_ahead_log import ForgetEntry, decode_entry
from engine.backends.local.verify.examination import Examination, as_is, as_text


def _decode_commit(stored: memoryview) -> int:
    if len(stored) != COMMIT_BYTES:
        raise ValueError(f"{len(stored)} bytes instead of {COMMIT_BYTES}")
    return int.from_bytes(stored, "little")


_RECORDS: dict[bytes, Callable[[memoryview], object]] = {
    HEADER: lambda stored: msgspec.msgpack.decode(stored, type=StoreHeader),
    SESSION: decode_session,
    CHECKPOINTED: lambda stored: msgspec.msgpack.decode(stored, type=CheckpointedState),
    TRIMMED: decode_trimmed,
    INSTANT: decode_instant,
    COMMIT: _decode_commit,
}
"""Decoders by name for the family META."""


def check_meta(examination: Examination) -> Iterator[None]:
    """Checks that both headers are equal, both parts are of one session, and both record their positions."""
    records: list[dict[bytes, Any]] = []
    for txn in (examination.log, examination.index):
        records.append({})
        for (name,), stored, value in examination.values(Family.META, as_is, txn):
            if name.startswith(CLUSTER):
                # What a gateway keeps is whole when its checksum is right.
                yield
                continue
            if name not in _RECORDS:
                examination.fault(Family.META, "has an unknown name", stored)
                continue
            try:
                records[-1][name] = _RECORDS[name](value)
            except (ValueError, msgspec.MsgspecError) as error:
                examination.damage(Family.META, f"cannot be decoded: {error}", stored)
            yield
    if not examination.is_sound(Family.META):
        return
    log, index = records
    examination.checkpointed = index.get(CHECKPOINTED, CheckpointedState()).position
    header = index.get(HEADER) or log.get(HEADER)
    alike = header is not None and index.get(HEADER) == log.get(HEADER)
    examination.expect(alike, Family.META, "log and index have different headers")
    fits = log.get(SESSION, Session()).fits(index.get(SESSION, Session()))
    examination.expect(fits, Family.META, "log and index are from different times")
    if header is not None:
        examination.store_id, examination.groups = header.store_id, header.groups
        examination.seed = header.seed
        right = header.format_version == FORMAT_VERSION
        examination.expect(right, Family.META, f"has format version {header.format_version}")
    examination.trimmed = log.get(TRIMMED)


def check_log(examination: Examination) -> Iterator[None]:
    """Checks that positions continue from the index without gaps, and that arrivals never decrease."""
    expected, arrival = None, 0
    for (position,), stored, entry in examination.values(Family.LOG, decode_entry, examination.log):
        if expected is None and examination.is_sound(Family.META):
            begins = position <= examination.checkpointed + 1
            examination.expect(
                begins,
                Family.LOG,
                f"begins after the index, which ends at {examination.checkpointed}",
                stored,
            )
        if expected is not None and examination.is_sound(Family.LOG):
            examination.expect(position == expected, Family.LOG, f"follows {expected - 1}", stored)
        expected = position + 1
        examination.logged = position
        examination.expect(entry.arrival >= arrival, Family.LOG, "arrived before the previous entry", stored)
        arrival = max(arrival, entry.arrival)
        if isinstance(entry, ForgetEntry) and position > examination.checkpointed:
            examination.forgotten.add(entry.name)
        yield
    ends = examination.logged or examination.trimmed
    if ends is not None and examination.is_sound(Family.LOG, Family.META):
        reaches = ends >= examination.checkpointed
        examination.expect(
            reaches, Family.LOG, f"ends at {ends}, before the index, which ends at {examination.checkpointed}"
        )


def check_documents(examination: Examination) -> Iterator[None]:
    """Checks that document keys are text. Their content belongs to the resources."""
    for (name,), stored, _ in examination.values(Family.DOCUMENT, as_is):
        try:
            name.decode()
        except UnicodeDecodeError:
            examination.fault(Family.DOCUMENT, "has a key that is not text", stored)
        yield


def check_names(examination: Examination) -> Iterator[None]:
    """Checks that each space is numbered from 1 without gaps or repetitions, for a named account."""
    numbers: dict[tuple[int, int], list[int]] = {}
    for (space, account, number), stored, name in examination.values(Family.NAME, as_text):
        numbers.setdefault((space, account), []).append(number)
        names = examination.names.setdefault((space, account), {})
        if name == FORGOTTEN:
            continue
        names[number] = name
        if space == Space.FIELD:
            try:
                field_of(name)
            except msgspec.MsgspecError:
                examination.fault(Family.NAME, f"is not a valid field: {name}", stored)
        yield
    if not examination.is_sound(Family.NAME):
        return
    accounts = examination.names.get((Space.ACCOUNT, NO_ACCOUNT), {})
    for (space, account), names in examination.names.items():
        prefix = key(Family.NAME, space, account, 0)
        given = numbers[space, account]
        whole = given == list(range(1, len(given) + 1))
        examination.expect(whole, Family.NAME, "numbers of this space have gaps", prefix)
        different = len(set(names.values())) == len(names)
        examination.expect(different, Family.NAME, "two numbers of this space have the same name", prefix)
        owned = account == NO_ACCOUNT or account in accounts
        examination.expect(owned, Family.NAME, "belongs to an unknown account", prefix)
