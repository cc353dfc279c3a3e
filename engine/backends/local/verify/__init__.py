"""Verification: reads every key of a store and cross-checks values that describe the same data.

`verify` scans each family once, with the checker of that family. A value that fails its checksum is reported
once and left out. Values that refer to a damaged family are not compared, so one fault is not reported as a
thousand. It holds in memory the bitmaps of users, 24 bytes per user, the items of one run, the spans of
writes, and the metadata of the parts of event tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from engine.backends.base.upkeep import FamilyFigures, Finding, StoreFault, StoreProgress, StoreVerified
from engine.backends.local.storage.key_statistics import INDEX_FAMILIES, KINDS, LOG_FAMILIES
from engine.backends.local.storage.keys import Family
from engine.backends.local.storage.transactions import Readable, ReadTransaction
from engine.backends.local.verify.dedupe import check_event_ids, check_requests
from engine.backends.local.verify.events import check_events
from engine.backends.local.verify.examination import Examination
from engine.backends.local.verify.fields import check_fields
from engine.backends.local.verify.key_ranges import check_key_ranges
from engine.backends.local.verify.membership import check_memberships
from engine.backends.local.verify.names import check_documents, check_log, check_meta, check_names
from engine.backends.local.verify.seen import check_seen
from engine.backends.local.verify.users import check_users
from engine.errors import DataLoss

KEYS_PER_PROGRESS = 256

Checker = Callable[[Examination], Iterator[None]]
Rest = Callable[[], None]
"""May pause, so that others have the interpreter."""

CHECKERS: tuple[tuple[Checker, tuple[Family, ...]], ...] = (
    (check_meta, (Family.META,)),
    (check_log, (Family.LOG,)),
    (check_documents, (Family.DOCUMENT,)),
    (check_names, (Family.NAME,)),
    (
        check_users,
        (
            Family.USER_COUNT,
            Family.USER_IDS,
            Family.USER_PARTITIONS,
            Family.ALIVE,
            Family.USER_RUN,
            Family.USER_FILTER,
            Family.USER_BLOCK,
            Family.ALIAS_OF,
            Family.ALIASES,
        ),
    ),
    (check_seen, (Family.BELONGS, Family.SEEN)),
    (
        check_fields,
        (
            Family.PROFILE,
            Family.PROFILED,
            Family.FIELD_PRESENT,
            Family.FIELD_VALUE,
            Family.FIELD_TEXT,
            Family.FIELD_COLUMN,
            Family.WRITE_TIMES,
        ),
    ),
    (check_event_ids, (Family.DEDUPE_RUN, Family.DEDUPE_FILTER, Family.DEDUPE_BLOCK)),
    (check_requests, (Family.REQUEST, Family.REQUEST_ARRIVAL)),
    (check_memberships, (Family.MEMBERSHIP, Family.MEMBERS, Family.CHANGES, Family.ERASED)),
    (
        check_events,
        (Family.EVENT_TABLE, Family.EVENT_SLICE, Family.EVENT_COLUMN, Family.EVENT_CHECKPOINT),
    ),
    (check_key_ranges, (Family.RANGE,)),
)
"""Checkers and their families, ordered so that each finds the results it compares with."""


def verify(log: Readable, index: Readable, rest: Rest) -> Iterator[Finding]:
    """As `verify_transactions`, in new read transactions of both parts. They last as long as the iterator;
    close it to end them early.
    """
    # The log first: an index read later reaches at least as far as this log was trimmed.
    with log.reading() as log_txn, index.reading() as index_txn:
        yield from verify_transactions(log_txn, index_txn, rest)


def verify_transactions(
    log: ReadTransaction, index: ReadTransaction, rest: Rest = lambda: None
) -> Iterator[Finding]:
    """Faults as they are found, progress every `KEYS_PER_PROGRESS` keys, and the result last. Calls `rest`
    after every key.
    """
    examination = Examination(log, index)
    for txn in (log, index):
        try:
            txn.check_pages()
        except DataLoss as damage:
            # Do not look up anything in such a file: LMDB might kill the process.
            examination.fault(Family.META, damage.message)
    yield from examination.take_faults()
    if examination.has_faults:
        yield _result(examination)
        return
    for checker, families in CHECKERS:
        for step in _steps(checker, families, examination):
            rest()
            yield from examination.take_faults()
            if step % KEYS_PER_PROGRESS == 0:
                yield _progress(examination)
        yield from examination.take_faults()
    _find_strangers(examination)
    yield from examination.take_faults()
    yield _result(examination)


def refuse_faults(findings: Iterable[Finding], what: str) -> None:
    """Runs a verification and raises DataLoss at its first fault. `what`: what was verified."""
    for finding in findings:
        if isinstance(finding, StoreFault):
            where = f"{finding.family} {finding.key}".strip()
            raise DataLoss(
                f"{what} is damaged: {where} {finding.description}", metadata={"key_family": finding.family}
            )


def _steps(checker: Checker, families: tuple[Family, ...], examination: Examination) -> Iterator[int]:
    try:
        for step, _ in enumerate(checker(examination), 1):
            yield step
    except Exception as error:
        # An exception in a checker is a finding too; the other families are still checked.
        examination.fault(families[0], f"the check of {_named(families)} failed: {error}")


def _named(families: tuple[Family, ...]) -> str:
    return ", ".join(family.name for family in families)


def _find_strangers(examination: Examination) -> None:
    """Reports keys of unknown families, or of families of the other environment."""
    for txn, families in ((examination.log, LOG_FAMILIES), (examination.index, INDEX_FAMILIES)):
        codes = {family.code for family in families}
        for code in range(256):
            for stored in txn.keys(bytes([code])) if code not in codes else ():
                examination.fault(Family.META, "is a key of an unexpected family", stored)


def _progress(examination: Examination) -> StoreProgress:
    counts = examination.counts.values()
    return StoreProgress(
        keys=sum(count.keys for count in counts),
        keys_total=examination.log.count() + examination.index.count(),
        bytes=sum(count.bytes for count in counts),
    )


def _result(examination: Examination) -> StoreVerified:
    families = tuple(
        FamilyFigures(family.name, KINDS[family], count.keys, count.bytes, count.faults)
        for family, count in examination.counts.items()
    )
    return StoreVerified(
        store_id=examination.store_id,
        revision=max(examination.checkpointed, examination.logged),
        families=families,
        faults=sum(count.faults for count in examination.counts.values()),
    )
