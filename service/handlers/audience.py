"""AudienceService: sizes and membership."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc

from engine.audiences.model import WatchStart
from engine.audiences.watch import Watch, WatchTogether
from engine.errors import InvalidInput, StoreUnavailable
from engine.resources.records import Audience, Connection
from milepost.v1 import audience_pb2, audience_service_pb2_grpc
from milepost.v1 import audience_service_pb2 as pb
from service.convert import sizes as convert
from service.convert.batch_checks import batch_check_message
from service.convert.checks import CheckMessages
from service.convert.faults import ShapeFaults
from service.convert.journeys import audience_message, audience_of_message, journey_message
from service.convert.masks import AUDIENCE_FIELDS, masked_fields
from service.convert.members import export_message, list_message
from service.convert.times import duration, optional_instant, timestamp
from service.convert.watches import watch_cursor, watch_message, watch_position
from service.handlers.runtime import Runtime
from service.waiting import Waiting, Wake

WATCH_PROGRESS_DEFAULT_MICROS = 5_000_000
WATCH_OPENED = (("milepost-stream", "open"),)
"""Metadata that an open watch begins with: clients count their attempts anew."""


class AudienceHandlers(audience_service_pb2_grpc.AudienceServiceServicer):
    """See audience_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._audiences = runtime.engine.audiences
        self._sizes = runtime.engine.sizes
        self._members = runtime.engine.members
        self._check_messages = CheckMessages(runtime.revisions)

    # --- audiences ------------------------------------------------------------------------------------------

    def GetAudience(
        self, request: pb.GetAudienceRequest, context: grpc.ServicerContext
    ) -> pb.GetAudienceResponse:
        record = self._audiences.get(request.name)
        shown = self._sizes.shown(record.name, deadline=self._runtime.deadline(context))
        size = convert.shown_size_message(shown, self._runtime.revisions)
        return pb.GetAudienceResponse(audience=self._message(record, size))

    def ListAudiences(
        self, request: pb.ListAudiencesRequest, context: grpc.ServicerContext
    ) -> pb.ListAudiencesResponse:
        page = self._audiences.list(
            request.parent,
            page_size=request.page_size,
            page_token=request.page_token,
            journey=request.journey,
        )
        return pb.ListAudiencesResponse(
            audiences=map(self._message, page.items), next_page_token=page.next_page_token
        )

    def UpdateAudience(
        self, request: pb.UpdateAudienceRequest, context: grpc.ServicerContext
    ) -> pb.UpdateAudienceResponse:
        fields = masked_fields(request.audience, request.update_mask, AUDIENCE_FIELDS)
        record = audience_of_message(request.audience)
        updated = self._audiences.update(record, fields, request.audience.etag)
        return pb.UpdateAudienceResponse(audience=self._message(updated), revision=self._runtime.revision())

    def _message(
        self, record: Audience, size: audience_pb2.AudienceSize | None = None
    ) -> audience_pb2.Audience:
        display_name = self._audiences.milestone(record).display_name
        return audience_message(record, display_name, self._audiences.activated(record.name), size)

    # --- sizes ----------------------------------------------------------------------------------------------

    def EstimateAudience(
        self, request: pb.EstimateAudienceRequest, context: grpc.ServicerContext
    ) -> pb.EstimateAudienceResponse:
        estimate = self._sizes.estimate(
            convert.target_of(request, self._runtime.engine.limits),
            precision=convert.precision_of(request),
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return convert.estimate_message(estimate, self._runtime.revisions)

    def CountAudience(
        self, request: pb.CountAudienceRequest, context: grpc.ServicerContext
    ) -> pb.CountAudienceResponse:
        count = self._sizes.count(
            request.name,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return convert.count_message(count, self._runtime.revisions)

    def CompareAudiences(
        self, request: pb.CompareAudiencesRequest, context: grpc.ServicerContext
    ) -> pb.CompareAudiencesResponse:
        comparison = self._sizes.compare(
            tuple(request.audiences),
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return pb.CompareAudiencesResponse(
            intersections=convert.intersection_messages(comparison),
            evaluation=convert.evaluation_message(comparison, self._runtime.revisions),
        )

    def GetJourneyFunnel(
        self, request: pb.GetJourneyFunnelRequest, context: grpc.ServicerContext
    ) -> pb.GetJourneyFunnelResponse:
        funnel = self._sizes.funnel(
            request.name,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        journeys = self._runtime.engine.journeys
        journey = journeys.get_journey(request.name)
        return pb.GetJourneyFunnelResponse(
            journey=journey_message(journey, journeys.summary(journey.name)),
            population=funnel.population,
            steps=convert.funnel_step_messages(funnel),
            evaluation=convert.evaluation_message(funnel, self._runtime.revisions),
        )

    def PreviewJourney(
        self, request: pb.PreviewJourneyRequest, context: grpc.ServicerContext
    ) -> pb.PreviewJourneyResponse:
        funnel = self._sizes.preview(
            request.parent,
            tuple(request.inputs),
            convert.preview_milestones(request.milestones, self._runtime.engine.limits),
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return pb.PreviewJourneyResponse(
            population=funnel.population,
            steps=convert.funnel_step_messages(funnel),
            evaluation=convert.evaluation_message(funnel, self._runtime.revisions),
            warnings=convert.warning_messages(funnel.warnings),
        )

    def ListAudienceSizes(
        self, request: pb.ListAudienceSizesRequest, context: grpc.ServicerContext
    ) -> pb.ListAudienceSizesResponse:
        page = self._sizes.history(
            request.parent,
            convert.interval_of(request.interval),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListAudienceSizesResponse(
            audience_sizes=convert.size_point_messages(page.items), next_page_token=page.next_page_token
        )

    # --- membership -----------------------------------------------------------------------------------------

    def CheckMembership(
        self, request: pb.CheckMembershipRequest, context: grpc.ServicerContext
    ) -> pb.CheckMembershipResponse:
        at_least = request.at_least
        check = self._members.check(
            request.audience,
            request.user_id,
            as_of=optional_instant(request, "as_of") if request.HasField("as_of") else None,
            at_least=self._runtime.at_least(at_least) if at_least else 0,
            deadline=partial(self._runtime.deadline, context),
        )
        return self._check_messages.of(check)

    def BatchCheckMembership(
        self, request: pb.BatchCheckMembershipRequest, context: grpc.ServicerContext
    ) -> pb.BatchCheckMembershipResponse:
        answer = self._members.batch_check(
            request.parent,
            tuple(request.user_ids),
            tuple(request.audiences),
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return batch_check_message(answer, self._runtime.revisions)

    def ListUserAudiences(
        self, request: pb.ListUserAudiencesRequest, context: grpc.ServicerContext
    ) -> pb.ListUserAudiencesResponse:
        page = self._members.user_audiences(
            request.parent,
            request.user_id,
            page_size=request.page_size,
            page_token=request.page_token,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return pb.ListUserAudiencesResponse(
            audiences=map(self._message, page.audiences),
            next_page_token=page.next_page_token,
            as_of=timestamp(page.as_of),
            revision=self._runtime.token(page.revision),
        )

    def ListMembers(
        self, request: pb.ListMembersRequest, context: grpc.ServicerContext
    ) -> pb.ListMembersResponse:
        page = self._members.list_members(
            request.parent,
            page_size=request.page_size,
            page_token=request.page_token,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        revision = self._runtime.token(page.revision)
        return list_message(page.user_ids, page.next_page_token, page.as_of, revision)

    def ExportMembers(
        self, request: pb.ExportMembersRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportMembersResponse]:
        pages = self._members.export(
            request.name,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.stream_deadline(context),
        )
        for page in pages:
            yield export_message(page.user_ids, page.as_of, self._runtime.token(page.revision))

    def WatchMembership(  # type: ignore[override] # it also yields `Waiting`
        self, request: pb.WatchMembershipRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchMembershipResponse | Waiting]:
        wake = Wake()
        connections = self._runtime.engine.connections
        connection = self._watched_connection(request)
        watch = self._watch(request, connection, wake)
        stop_listening = None if connection is None else connections.listen(connection.name, wake)
        try:
            if not self._runtime.has_ended(context):
                # The first update may be seconds away, and the caller wants to know that a service is there.
                context.send_initial_metadata(WATCH_OPENED)
            while not self._runtime.has_ended(context):
                if connection is not None:
                    # One that was deleted, deactivated, activated again or replayed has no such consumer.
                    connections.require_watched(connection.name, connection.activation)
                item = watch.take()
                if item is not None:
                    yield watch_message(item)
                elif isinstance(watch, WatchTogether) and watch.is_over:
                    return
                else:
                    yield from wake.until(watch.due)
        finally:
            watch.close()
            if stop_listening is not None:
                stop_listening()
        if self._runtime.stopping.is_set():
            raise StoreUnavailable("the service is stopping; reconnect and resume from the last cursor")

    def _watch(self, request: pb.WatchMembershipRequest, connection: Connection | None, wake: Wake) -> Watch:
        progress_interval = WATCH_PROGRESS_DEFAULT_MICROS
        if request.HasField("progress_interval"):
            faults = ShapeFaults()
            progress_interval = duration(request.progress_interval, "progress_interval", faults)
            faults.raise_if_any()
        live = self._runtime.engine.live
        if request.audiences or request.WhichOneof("start") == "position":
            position = watch_position(request)
            names = tuple(request.audiences)
            return live.watch_together(names, position, progress_interval=progress_interval, wake=wake)
        return live.watch(_watch_start(request, connection), progress_interval=progress_interval, wake=wake)

    def _watched_connection(self, request: pb.WatchMembershipRequest) -> Connection | None:
        if request.WhichOneof("start") != "connection" or request.audiences:
            return None
        connection = self._runtime.engine.connections.watched(request.connection, "connection")
        if (
            request.audience
            and self._runtime.engine.audiences.of(request.audience, "audience").name != connection.audience
        ):
            raise InvalidInput.one("audience", f"{connection.name} is a connection of {connection.audience}")
        return connection

    def ExplainMembership(
        self, request: pb.ExplainMembershipRequest, context: grpc.ServicerContext
    ) -> pb.ExplainMembershipResponse:
        answer = self._members.explain_membership(
            request.name,
            request.user_id,
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return convert.membership_explanation_message(answer, self._runtime.revisions)

    def ExplainAudience(
        self, request: pb.ExplainAudienceRequest, context: grpc.ServicerContext
    ) -> pb.ExplainAudienceResponse:
        answer = self._members.explain_audience(
            convert.target_of(request, self._runtime.engine.limits),
            as_of=optional_instant(request, "as_of"),
            at_least=self._runtime.at_least(request.at_least),
            deadline=self._runtime.deadline(context),
        )
        return convert.audience_explanation_message(answer, self._runtime.revisions)


def _watch_start(request: pb.WatchMembershipRequest, connection: Connection | None) -> WatchStart:
    if connection is None:
        return WatchStart(request.audience, watch_cursor(request), request.epoch)
    cursor = None if connection.cursor.in_snapshot else connection.delivered
    return WatchStart(connection.audience, cursor, connection.epoch, renews=True)
