"""Methods of ConnectionService: outputs, and the connections of audiences to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from milepost import names
from milepost._arguments import require_several
from milepost.aio.base import PAGE_SIZE, AsyncClientBase, ensured, given
from milepost.aio.watching import WATCH_ATTEMPTS_MAX, AsyncAcknowledgedWatch
from milepost.outputs import OutputKind, kind_of, output_of
from milepost.v1.audience_service_pb2 import WatchMembershipRequest
from milepost.v1.connection_pb2 import Batching, ChangeKind, Connection, Output
from milepost.v1.connection_service_pb2 import (
    AcknowledgeChangesRequest,
    ActivateConnectionRequest,
    CreateConnectionRequest,
    CreateOutputRequest,
    DeactivateConnectionRequest,
    DeleteConnectionRequest,
    DeleteOutputRequest,
    GetConnectionRequest,
    GetOutputRequest,
    ListConnectionsRequest,
    ListOutputsRequest,
    PauseConnectionRequest,
    ReplayConnectionRequest,
    ResumeConnectionRequest,
    TestOutputRequest,
    TestOutputResponse,
    UpdateConnectionRequest,
    UpdateOutputRequest,
)
from milepost.values import optional, to_duration, to_timestamp


class AsyncConnectionMethods(AsyncClientBase):
    """Connects audiences to outputs."""

    # --- outputs ---

    async def create_output(
        self, output_id: str, kind: OutputKind, *, display_name: str = "", request_id: str = ""
    ) -> Output:
        """Creates an output, as in `create_output("files", FileOutput(path="exports"))`; with an empty id the
        service chooses one. Raises AlreadyExists.
        """
        request = CreateOutputRequest(
            parent=self.account_name,
            output_id=output_id,
            output=output_of(kind, display_name=display_name),
            request_id=request_id,
        )
        return (await self.write(self.connections.CreateOutput, request)).output

    async def get_output(self, output: str) -> Output:
        """An output, given by id or name, without its secrets."""
        return (await self.connections.GetOutput(GetOutputRequest(name=self.output_name(output)))).output

    async def list_outputs(self) -> AsyncIterator[Output]:
        """The account's outputs, in order of name."""
        request = ListOutputsRequest(parent=self.account_name, page_size=PAGE_SIZE)
        async for page in self.pages(self.connections.ListOutputs, request):
            for each in page.outputs:
                yield each

    async def update_output(
        self,
        output: str,
        *,
        kind: OutputKind | None = None,
        display_name: str | None = None,
        secret_overlap: timedelta | None = None,
        etag: str = "",
    ) -> Output:
        """Changes what is given of an output. `kind` replaces kind and address; an output of the same kind
        keeps its secret when none is given. A new signing secret leaves the previous one valid for
        `secret_overlap`, by default 24 hours; zero ends it at once. Raises Aborted when `etag` is not the
        current one.
        """
        fields = given(display_name=display_name)
        changed = output_of(kind, name=self.output_name(output), etag=etag, **fields)
        paths = [*fields, *filter(None, [kind_of(changed)])]
        request = UpdateOutputRequest(
            output=changed,
            update_mask=FieldMask(paths=paths),
            secret_overlap=optional(to_duration, secret_overlap, "secret_overlap"),
        )
        return (await self.connections.UpdateOutput(request)).output

    async def delete_output(self, output: str, *, etag: str = "") -> None:
        """Deletes an output. Raises FailedPrecondition while it has connections."""
        await self.connections.DeleteOutput(DeleteOutputRequest(name=self.output_name(output), etag=etag))

    async def test_output(self, output: str) -> TestOutputResponse:
        """Sends a marked event to an output, as a connection would, and reports what came back. Raises
        FailedPrecondition for an output of kind `watch`, which sends nothing.
        """
        request = TestOutputRequest(name=self.output_name(output))
        return await self.connections.TestOutput(request)

    async def ensure_output(self, output_id: str, kind: OutputKind, *, display_name: str = "") -> Output:
        """An output of that kind and address, created if missing, and changed where it differs. The display
        name of a new one is by default its id.
        """
        asked = output_of(kind, name=names.output(self.account_id, output_id), display_name=display_name)

        async def update(mask: FieldMask) -> Output:
            request = UpdateOutputRequest(output=asked, update_mask=mask)
            return (await self.connections.UpdateOutput(request)).output

        return await ensured(
            asked,
            lambda: self.get_output(asked.name),
            lambda: self.create_output(output_id, kind, display_name=display_name or output_id),
            update,
        )

    # --- connections ---

    async def create_connection(
        self,
        connection_id: str = "",
        *,
        target: str,
        output: str,
        identities: Sequence[str] = (),
        attributes: Sequence[str] = (),
        hashed_identities: Sequence[str] = (),
        hashed_attributes: Sequence[str] = (),
        kinds: Sequence[ChangeKind.ValueType] = (),
        batching: Batching | None = None,
        exits_on_deactivation: bool = False,
        request_id: str = "",
    ) -> Connection:
        """Connects an audience, or a milestone's, to an output; INACTIVE until it is activated. Without an id
        the service chooses one. `identities` and `attributes` go with each change, those `hashed_` in lower
        case as SHA-256. With `kinds` only changes of these kinds are sent. `exits_on_deactivation` sends the
        exit of every member after the connection is deactivated.
        """
        created = await self._connection(
            target,
            output,
            identities=identities,
            attributes=attributes,
            hashed_identities=hashed_identities,
            hashed_attributes=hashed_attributes,
            kinds=kinds,
            batching=batching,
            exits_on_deactivation=exits_on_deactivation,
        )
        request = CreateConnectionRequest(
            parent=self.account_name,
            connection_id=connection_id,
            connection=created,
            request_id=request_id,
        )
        return (await self.write(self.connections.CreateConnection, request)).connection

    async def _connection(
        self,
        target: str,
        output: str,
        *,
        batching: Batching | None,
        exits_on_deactivation: bool,
        **several: Any,
    ) -> Connection:
        require_several(**several)
        return Connection(
            audience=await self.audience_name(target),
            output=self.output_name(output),
            batching=batching,
            exits_on_deactivation=exits_on_deactivation,
            **several,
        )

    async def get_connection(self, connection: str) -> Connection:
        """A connection, given by id or name."""
        request = GetConnectionRequest(name=self.connection_name(connection))
        return (await self.connections.GetConnection(request)).connection

    async def list_connections(self, *, target: str = "", output: str = "") -> AsyncIterator[Connection]:
        """The account's connections, or those of an audience or output, in order of name."""
        request = ListConnectionsRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            audience=await self.audience_name(target) if target else "",
            output=self.output_name(output) if output else "",
        )
        async for page in self.pages(self.connections.ListConnections, request):
            for each in page.connections:
                yield each

    async def update_connection(
        self,
        connection: str,
        *,
        identities: Sequence[str] | None = None,
        attributes: Sequence[str] | None = None,
        hashed_identities: Sequence[str] | None = None,
        hashed_attributes: Sequence[str] | None = None,
        kinds: Sequence[ChangeKind.ValueType] | None = None,
        batching: Batching | None = None,
        exits_on_deactivation: bool | None = None,
        etag: str = "",
    ) -> Connection:
        """Changes what is given of a connection. Its audience and output cannot change. Raises Aborted when
        `etag` is not the current one.
        """
        several = given(
            identities=identities,
            attributes=attributes,
            hashed_identities=hashed_identities,
            hashed_attributes=hashed_attributes,
            kinds=kinds,
        )
        require_several(**several)
        fields = several | given(batching=batching, exits_on_deactivation=exits_on_deactivation)
        changed = Connection(name=self.connection_name(connection), etag=etag, **fields)
        request = UpdateConnectionRequest(connection=changed, update_mask=FieldMask(paths=fields))
        return (await self.connections.UpdateConnection(request)).connection

    async def delete_connection(self, connection: str, *, etag: str = "") -> None:
        """Deletes a connection; an active one stops delivering first."""
        request = DeleteConnectionRequest(name=self.connection_name(connection), etag=etag)
        await self.connections.DeleteConnection(request)

    async def ensure_connection(
        self,
        connection_id: str,
        *,
        target: str,
        output: str,
        identities: Sequence[str] = (),
        attributes: Sequence[str] = (),
        hashed_identities: Sequence[str] = (),
        hashed_attributes: Sequence[str] = (),
        kinds: Sequence[ChangeKind.ValueType] = (),
        batching: Batching | None = None,
        exits_on_deactivation: bool = False,
    ) -> Connection:
        """A connection of an audience, or a milestone's, to an output: created INACTIVE if missing, and
        changed where it differs from what is given. What is not given stays.

        Raises InvalidArgument when it has another audience or output: they cannot change.
        """
        asked = await self._connection(
            target,
            output,
            identities=identities,
            attributes=attributes,
            hashed_identities=hashed_identities,
            hashed_attributes=hashed_attributes,
            kinds=kinds,
            batching=batching,
            exits_on_deactivation=exits_on_deactivation,
        )
        asked.name = names.connection(self.account_id, connection_id)

        async def update(mask: FieldMask) -> Connection:
            request = UpdateConnectionRequest(connection=asked, update_mask=mask)
            return (await self.connections.UpdateConnection(request)).connection

        return await ensured(
            asked,
            lambda: self.get_connection(asked.name),
            lambda: self.create_connection(
                connection_id,
                target=asked.audience,
                output=asked.output,
                identities=identities,
                attributes=attributes,
                hashed_identities=hashed_identities,
                hashed_attributes=hashed_attributes,
                kinds=kinds,
                batching=batching,
                exits_on_deactivation=exits_on_deactivation,
            ),
            update,
        )

    # --- states ---

    async def activate_connection(self, connection: str, *, etag: str = "") -> Connection:
        """Activates a connection: every member is sent, then every change. Raises ResourceExhausted when the
        account has no credit left.
        """
        request = ActivateConnectionRequest(name=self.connection_name(connection), etag=etag)
        return (await self.connections.ActivateConnection(request)).connection

    async def deactivate_connection(self, connection: str, *, etag: str = "") -> Connection:
        """Deactivates a connection: delivery stops, after the exits of all members if the connection sends
        them, and the credit is returned.
        """
        request = DeactivateConnectionRequest(name=self.connection_name(connection), etag=etag)
        return (await self.connections.DeactivateConnection(request)).connection

    async def pause_connection(self, connection: str, *, etag: str = "") -> Connection:
        """Pauses an ACTIVE connection: nothing is delivered until it is resumed, and its audience keeps its
        credit. Raises FailedPrecondition for any other.
        """
        request = PauseConnectionRequest(name=self.connection_name(connection), etag=etag)
        return (await self.connections.PauseConnection(request)).connection

    async def replay_connection(
        self, connection: str, *, since: datetime | None = None, etag: str = ""
    ) -> Connection:
        """Sends again what changed after an instant; by default every member, as at activation, then every
        change. Raises OutOfRange when changes since are not kept any more; its metadata has `oldest_time`.
        """
        request = ReplayConnectionRequest(
            name=self.connection_name(connection),
            start_time=optional(to_timestamp, since, "since"),
            etag=etag,
        )
        return (await self.connections.ReplayConnection(request)).connection

    async def resume_connection(self, connection: str, *, etag: str = "") -> Connection:
        """Resumes a paused or FAULTED connection from where it stopped. Raises FailedPrecondition for any
        other.
        """
        request = ResumeConnectionRequest(name=self.connection_name(connection), etag=etag)
        return (await self.connections.ResumeConnection(request)).connection

    # --- consuming without a broker ---

    async def watch_connection(
        self, connection: str, *, progress_interval: timedelta | None = None
    ) -> AsyncAcknowledgedWatch:
        """Changes for an ACTIVE connection to an output of kind `watch`, after those acknowledged.

        Until some are, and when the audience was calculated anew, a snapshot comes first. Its `acknowledge`
        acknowledges; a later watch, from anywhere, continues there. Raises OutOfRange when those changes are
        no longer kept: watch the audience without a cursor, and acknowledge the end of its snapshot.
        """
        found = await self.get_connection(connection)
        request = WatchMembershipRequest(
            audience=found.audience,
            connection=found.name,
            progress_interval=optional(to_duration, progress_interval, "progress_interval"),
        )

        async def acknowledge(cursor: int, epoch: str) -> None:
            await self.acknowledge_changes(found.name, cursor, epoch=epoch, activation=found.activation)

        return AsyncAcknowledgedWatch(
            self.audiences.WatchMembership, request, WATCH_ATTEMPTS_MAX, acknowledge
        )

    async def acknowledge_changes(
        self, connection: str, cursor: int, *, epoch: str, activation: int
    ) -> Connection:
        """Acknowledges all changes up to a cursor of an epoch for a connection to an output of kind `watch`;
        see `watch_connection`. `activation` is the connection's when the watch began.
        """
        request = AcknowledgeChangesRequest(
            name=self.connection_name(connection), cursor=cursor, epoch=epoch, activation=activation
        )
        return (await self.connections.AcknowledgeChanges(request)).connection
