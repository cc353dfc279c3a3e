"""Past versions of journeys.

A version is a number and the document of the journey. The current one follows from the records; each change
stores the one before it as a document of its own, in the same commit. The oldest are dropped beyond
`JOURNEY_VERSIONS_MAX`, or `JOURNEY_VERSION_BYTES_MAX` for one journey, or what the account may have of all
(`Quotas.record_bytes_max`).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import xxhash

from engine.errors import NotFound
from engine.limits import JOURNEY_VERSION_BYTES_MAX, JOURNEY_VERSIONS_MAX
from engine.resources.documents import JourneyDocument, document_of
from engine.resources.milestone_tree import Forest
from engine.resources.names import Resource, check_name
from engine.resources.paging import Page
from engine.resources.records import Journey, Milestone, account_of
from engine.resources.repository import VERSION_PREFIX, Changes, Repository
from engine.values import Micros


class JourneyVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version. `document` is None in lists; `create_time` is when the version began. `etag` differs from
    that of every other version, also of an earlier journey of the same name.
    """

    name: str
    etag: str
    create_time: Micros
    milestone_count: int
    is_current: bool
    document: JourneyDocument | None = None


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A past version as stored: a list needs not decode the document."""

    create_time: Micros
    milestone_count: int
    document: msgspec.Raw


class Versions:
    """Keeps, reads and lists the versions of journeys."""

    def __init__(self, repository: Repository, forest: Forest) -> None:
        self._repository = repository
        self._forest = forest

    def put(self, changes: Changes, journey: Journey) -> Journey:
        """Writes a saved journey that changes, itself or by its milestones in `changes`, and returns it.

        It gets a new version, and the one before is kept, if its document differs from the saved one.
        """
        saved = self._repository.get(Journey, journey.name)
        before = self._forest.milestones(journey.name)
        after = {milestone.name: milestone for milestone in before} | changes.records_of(Milestone)
        document = document_of(saved, before)
        if document_of(journey, (each for each in after.values() if each is not None)) != document:
            journey = msgspec.structs.replace(journey, version=saved.version + 1)
            kept = _Kept(saved.update_time, len(before), msgspec.Raw(msgspec.msgpack.encode(document)))
            self._keep(changes, saved, msgspec.msgpack.encode(kept))
        changes.put(journey)
        return journey

    def delete(self, changes: Changes, journey: str) -> None:
        """Deletes the past versions of a journey."""
        for key, _ in self._repository.documents.scan(_prefix(journey)):
            changes.delete_document(key)

    def get(self, name: str) -> JourneyVersion:
        """A version with its document. Raises NotFound."""
        check_name(name, "name", Resource.JOURNEY_VERSION)
        journey_name, _, number = name.rpartition("/versions/")
        with self._repository.reading():
            journey = self._repository.get(Journey, journey_name)
            if int(number) == journey.version:
                document = document_of(journey, self._forest.milestones(journey_name))
                return msgspec.structs.replace(self.current(journey), document=document)
            stored = self._repository.documents.get(_key(journey_name, int(number)))
        if stored is None:
            raise NotFound(name)
        kept = msgspec.msgpack.decode(stored, type=_Kept)
        document = msgspec.msgpack.decode(kept.document, type=JourneyDocument)
        return msgspec.structs.replace(_past(journey, int(number), kept), document=document)

    def list(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[JourneyVersion]:
        """The versions of a journey, latest first, without documents. Raises NotFound."""
        check_name(parent, "parent", Resource.JOURNEY)
        with self._repository.reading():
            journey = self._repository.get(Journey, parent)
            versions = [self.current(journey), *self._past(journey)]
        return self._repository.pages.of(
            versions,
            lambda version: (_number(version.name),),
            ("list_journey_versions", parent),
            page_size=page_size,
            page_token=page_token,
            descending=True,
        )

    def current(self, journey: Journey) -> JourneyVersion:
        """The version that a saved journey has now, without its document."""
        return JourneyVersion(
            name=_version_name(journey.name, journey.version),
            etag=_etag(journey, journey.version),
            create_time=journey.update_time,
            milestone_count=len(self._forest.milestones(journey.name)),
            is_current=True,
        )

    def _past(self, journey: Journey) -> Iterator[JourneyVersion]:
        for key, stored in self._repository.documents.scan(_prefix(journey.name)):
            yield _past(journey, _number(key), msgspec.msgpack.decode(stored, type=_Kept))

    def _keep(self, changes: Changes, saved: Journey, value: bytes) -> None:
        """Stores a version and drops the oldest beyond the limits."""
        sizes = {key: len(stored) for key, stored in self._repository.documents.scan(_prefix(saved.name))}
        key = _key(saved.name, saved.version)
        changes.put_document(key, value)
        sizes[key] = len(value)
        count, size = len(sizes), sum(sizes.values())
        account = account_of(saved.name)
        of_others = self._repository.version_bytes[account] - (size - len(value))
        size_max = min(
            JOURNEY_VERSION_BYTES_MAX, self._repository.quotas_of(account).record_bytes_max - of_others
        )
        for oldest, bytes_freed in sizes.items():
            if count <= JOURNEY_VERSIONS_MAX and size <= size_max:
                return
            changes.delete_document(oldest)
            count, size = count - 1, size - bytes_freed


def _past(journey: Journey, number: int, kept: _Kept) -> JourneyVersion:
    return JourneyVersion(
        name=_version_name(journey.name, number),
        etag=_etag(journey, number),
        create_time=kept.create_time,
        milestone_count=kept.milestone_count,
        is_current=False,
    )


def _etag(journey: Journey, number: int) -> str:
    return xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode((journey.name, journey.create_time, number)))


def _version_name(journey: str, number: int) -> str:
    return f"{journey}/versions/{number}"


def _prefix(journey: str) -> str:
    return f"{VERSION_PREFIX}{journey}/"


def _key(journey: str, number: int) -> str:
    # Padded, so that keys are in order of number.
    return f"{_prefix(journey)}{number:012d}"


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])
