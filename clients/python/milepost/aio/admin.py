"""Methods of AdminService: the server, its store and its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from milepost import names
from milepost.aio.base import PAGE_SIZE, AsyncClientBase
from milepost.v1.admin_service_pb2 import (
    Backup,
    Clock,
    ConfirmClockRequest,
    CreateBackupRequest,
    CreateBackupResponse,
    DeleteBackupRequest,
    GetClockRequest,
    GetServerInfoRequest,
    GetServerInfoResponse,
    GetStoreStatsRequest,
    GetStoreStatsResponse,
    ListBackupsRequest,
    VerifyStoreRequest,
    VerifyStoreResponse,
)
from milepost.values import to_timestamp

BACKUP_TIMEOUT_SECONDS = 6 * 3_600.0
"""Long: a backup takes half a minute for a million users."""


class AsyncAdminMethods(AsyncClientBase):
    """Looks after the server and its store, all accounts together."""

    async def get_server_info(self) -> GetServerInfoResponse:
        """The server's version, its revision and its cheap figures."""
        return await self.admin.GetServerInfo(GetServerInfoRequest())

    async def create_backup(
        self, backup_id: str, *, timeout: float = BACKUP_TIMEOUT_SECONDS
    ) -> CreateBackupResponse:
        """Writes a verified copy of the store to a new directory on the server, while it serves. Raises
        DataLoss when the store is damaged, and Aborted while another backup is written; no backup is left
        then.
        """
        return await self.admin.CreateBackup(CreateBackupRequest(backup_id=backup_id), timeout=timeout)

    async def list_backups(self) -> AsyncIterator[Backup]:
        """The backups on the server, newest first."""
        async for page in self.pages(self.admin.ListBackups, ListBackupsRequest(page_size=PAGE_SIZE)):
            for each in page.backups:
                yield each

    async def delete_backup(self, backup: str) -> None:
        """Deletes a backup, given by id or name. Raises NotFound."""
        await self.admin.DeleteBackup(DeleteBackupRequest(name=names.backup(names.last_id(backup))))

    async def get_store_stats(self) -> GetStoreStatsResponse:
        """What is stored, by kind, and the size of each file. Takes about a second per million users."""
        return await self.admin.GetStoreStats(GetStoreStatsRequest())

    async def get_clock(self) -> Clock:
        """The server's clock, and how far it is trusted."""
        return (await self.admin.GetClock(GetClockRequest())).clock

    async def confirm_clock(self, time: datetime | None = None) -> Clock:
        """Confirms the server's clock by another, by default this machine's. Raises FailedPrecondition when
        they differ by more than 5 minutes.
        """
        request = ConfirmClockRequest(time=to_timestamp(time or datetime.now(UTC)))
        return (await self.admin.ConfirmClock(request)).clock

    async def verify_store(self) -> AsyncIterator[VerifyStoreResponse]:
        """Reads and checks everything in the store: faults as they are found, progress about once a second,
        and the result last. Without a result the verification was interrupted.
        """
        found: Any = self.admin.VerifyStore(VerifyStoreRequest())
        try:
            async for each in found:
                yield each
        finally:
            found.cancel()
