"""AdminService: server, store, clock and backups."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from engine.backends.base import Finding, Upkeep, upkeep_of
from engine.errors import InvalidInput, StoreUnavailable
from milepost.v1 import admin_service_pb2 as pb
from milepost.v1 import admin_service_pb2_grpc
from service.convert.clock import clock_message
from service.convert.times import optional_instant, timestamp
from service.convert.upkeep import backup_message, finding_messages, stats_message
from service.handlers.runtime import Runtime


class AdminHandlers(admin_service_pb2_grpc.AdminServiceServicer):
    """See admin_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _upkeep(self) -> Upkeep:
        return upkeep_of(self._runtime.engine.backend)

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        stats = self._runtime.engine.backend.stats()
        return pb.GetServerInfoResponse(
            version=self._runtime.version,
            store_id=stats.store_id,
            revision=self._runtime.token(stats.revision),
            start_time=timestamp(self._runtime.start_time),
            users=stats.users,
            events=stats.events,
            disk_bytes=stats.disk_bytes,
            log_bytes=stats.log_bytes,
        )

    def CreateBackup(
        self, request: pb.CreateBackupRequest, context: grpc.ServicerContext
    ) -> pb.CreateBackupResponse:
        backend = self._runtime.engine.backend
        made = self._runtime.backups.create(
            self._upkeep(),
            request.backup_id,
            store_id=backend.store_id,
            revision=backend.revision(),
            may_go_on=self._runtime.while_active(context),
        )
        message = backup_message(made, self._runtime.revisions)
        return pb.CreateBackupResponse(directory=message.directory, revision=message.revision, backup=message)

    def ListBackups(
        self, request: pb.ListBackupsRequest, context: grpc.ServicerContext
    ) -> pb.ListBackupsResponse:
        page = self._runtime.backups.list(page_size=request.page_size, page_token=request.page_token)
        return pb.ListBackupsResponse(
            backups=[backup_message(backup, self._runtime.revisions) for backup in page.items],
            next_page_token=page.next_page_token,
        )

    def DeleteBackup(
        self, request: pb.DeleteBackupRequest, context: grpc.ServicerContext
    ) -> pb.DeleteBackupResponse:
        self._runtime.backups.delete(request.name)
        return pb.DeleteBackupResponse()

    def GetStoreStats(
        self, request: pb.GetStoreStatsRequest, context: grpc.ServicerContext
    ) -> pb.GetStoreStatsResponse:
        return stats_message(
            self._upkeep().figures(self._runtime.deadline(context)), self._runtime.engine.signer
        )

    def GetClock(self, request: pb.GetClockRequest, context: grpc.ServicerContext) -> pb.GetClockResponse:
        return pb.GetClockResponse(clock=clock_message(self._runtime.engine.clock.status()))

    def ConfirmClock(
        self, request: pb.ConfirmClockRequest, context: grpc.ServicerContext
    ) -> pb.ConfirmClockResponse:
        time = optional_instant(request, "time")
        if time is None:
            raise InvalidInput.one(
                "time", "is required: the current time, from a clock other than the server's"
            )
        return pb.ConfirmClockResponse(clock=clock_message(self._runtime.engine.clock.confirm(time)))

    def VerifyStore(
        self, request: pb.VerifyStoreRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.VerifyStoreResponse]:
        yield from finding_messages(self._findings(context), self._runtime.engine.signer)

    def _findings(self, context: grpc.ServicerContext) -> Iterator[Finding]:
        """Findings, until the caller cancels or the service stops."""
        for finding in self._upkeep().verify():
            if self._runtime.stopping.is_set():
                raise StoreUnavailable("the service is stopping")
            if not context.is_active():
                return
            yield finding
