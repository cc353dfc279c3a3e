"""Messages of store figures and verification findings."""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine.backends.base.upkeep import Finding, StoreFault, StoreFigures, StoreProgress
from engine.resources.signing import Signer
from milepost.v1 import admin_service_pb2 as pb
from service.backups import Backup
from service.convert.revisions import Revisions, revision_token
from service.convert.times import timestamp

PROGRESS_INTERVAL_S = 1.0


def stats_message(figures: StoreFigures, signer: Signer | None = None) -> pb.GetStoreStatsResponse:
    """All figures of a store. Without a signer, as for a store that is not served, reads refuse its
    revisions.
    """
    return pb.GetStoreStatsResponse(
        store_id=figures.store_id,
        revision=revision_token(figures.store_id, figures.revision, signer),
        checkpointed_revision=revision_token(figures.store_id, figures.checkpointed_revision, signer),
        format_version=figures.format_version,
        users=figures.users,
        events=figures.events,
        purging=figures.is_purging,
        kinds=[pb.StoredKind(kind=each.kind, keys=each.keys, bytes=each.bytes) for each in figures.kinds],
        files=[
            pb.StoreFile(
                name=file.name,
                disk_bytes=file.disk_bytes,
                file_bytes=file.file_bytes,
                used_bytes=file.used_bytes,
                free_bytes=file.free_bytes,
                limit_bytes=file.limit_bytes,
            )
            for file in figures.files
        ],
    )


def finding_messages(
    findings: Iterator[Finding], signer: Signer | None = None
) -> Iterator[pb.VerifyStoreResponse]:
    """The findings of a verification, with progress once a second; see `stats_message` for the signer."""
    due = time.monotonic() + PROGRESS_INTERVAL_S
    for finding in findings:
        if isinstance(finding, StoreProgress):
            if time.monotonic() < due:
                continue
            due = time.monotonic() + PROGRESS_INTERVAL_S
        yield _finding_message(finding, signer)


def _finding_message(finding: Finding, signer: Signer | None = None) -> pb.VerifyStoreResponse:
    if isinstance(finding, StoreProgress):
        progress = pb.VerifyProgress(keys=finding.keys, keys_total=finding.keys_total, bytes=finding.bytes)
        return pb.VerifyStoreResponse(progress=progress)
    if isinstance(finding, StoreFault):
        fault = pb.StoreFault(family=finding.family, key=finding.key, description=finding.description)
        return pb.VerifyStoreResponse(fault=fault)
    families = [
        pb.FamilyFigures(
            family=each.family, kind=each.kind, keys=each.keys, bytes=each.bytes, faults=each.faults
        )
        for each in finding.families
    ]
    revision = revision_token(finding.store_id, finding.revision, signer)
    return pb.VerifyStoreResponse(
        result=pb.VerifyResult(revision=revision, families=families, faults=finding.faults)
    )


def backup_message(backup: Backup, revisions: Revisions) -> pb.Backup:
    """A backup."""
    return pb.Backup(
        name=backup.name,
        directory=str(backup.directory),
        size_bytes=backup.size_bytes,
        create_time=timestamp(backup.create_time),
        revision=revisions.token(backup.revision, backup.store_id) if backup.store_id else "",
    )
