"""JourneyService: journeys and their milestones."""

from __future__ import annotations

import grpc

from engine.resources.records import Journey
from milepost.v1 import journey_pb2, journey_service_pb2_grpc
from milepost.v1 import journey_service_pb2 as pb
from service.convert import journeys as convert
from service.convert.edits import edited_by
from service.convert.masks import JOURNEY_FIELDS, MILESTONE_FIELDS, masked_fields
from service.convert.sizes import evaluation_message, warning_messages
from service.convert.times import optional_instant
from service.handlers.runtime import Runtime


class JourneyHandlers(journey_service_pb2_grpc.JourneyServiceServicer):
    """See journey_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._journeys = runtime.engine.journeys
        self._milestones = runtime.engine.milestones
        self._versions = runtime.engine.versions
        self._applying = runtime.engine.applying

    def CreateJourney(
        self, request: pb.CreateJourneyRequest, context: grpc.ServicerContext
    ) -> pb.CreateJourneyResponse:
        created = self._journeys.create_journey(
            request.parent,
            request.journey_id,
            convert.journey_of_message(request.journey),
            request.request_id,
        )
        return pb.CreateJourneyResponse(journey=self._message(created), revision=self._runtime.revision())

    def GetJourney(
        self, request: pb.GetJourneyRequest, context: grpc.ServicerContext
    ) -> pb.GetJourneyResponse:
        return pb.GetJourneyResponse(journey=self._message(self._journeys.get_journey(request.name)))

    def ListJourneys(
        self, request: pb.ListJourneysRequest, context: grpc.ServicerContext
    ) -> pb.ListJourneysResponse:
        page = self._journeys.list_journeys(
            request.parent,
            page_size=request.page_size,
            page_token=request.page_token,
            query=request.query,
            order_by=request.order_by,
        )
        return pb.ListJourneysResponse(
            journeys=map(self._message, page.items), next_page_token=page.next_page_token
        )

    def UpdateJourney(
        self, request: pb.UpdateJourneyRequest, context: grpc.ServicerContext
    ) -> pb.UpdateJourneyResponse:
        fields = masked_fields(request.journey, request.update_mask, JOURNEY_FIELDS)
        record = convert.journey_of_message(request.journey)
        updated = self._journeys.update_journey(record, fields, request.journey.etag)
        return pb.UpdateJourneyResponse(journey=self._message(updated), revision=self._runtime.revision())

    def DeleteJourney(
        self, request: pb.DeleteJourneyRequest, context: grpc.ServicerContext
    ) -> pb.DeleteJourneyResponse:
        self._journeys.delete_journey(request.name, request.etag)
        return pb.DeleteJourneyResponse(revision=self._runtime.revision())

    def CloneJourney(
        self, request: pb.CloneJourneyRequest, context: grpc.ServicerContext
    ) -> pb.CloneJourneyResponse:
        clone = self._journeys.clone_journey(
            request.name, request.journey_id, request.display_name, request.request_id
        )
        return pb.CloneJourneyResponse(journey=self._message(clone), revision=self._runtime.revision())

    def _message(self, journey: Journey) -> journey_pb2.Journey:
        return convert.journey_message(journey, self._journeys.summary(journey.name))

    def CreateMilestone(
        self, request: pb.CreateMilestoneRequest, context: grpc.ServicerContext
    ) -> pb.CreateMilestoneResponse:
        record = convert.milestone_of_message(request.milestone, self._runtime.engine.limits)
        written = self._milestones.create_milestone(
            request.parent,
            request.milestone_id,
            record,
            request.request_id,
            deadline=self._runtime.deadline(context),
        )
        return pb.CreateMilestoneResponse(
            milestone=convert.milestone_message(written.record),
            revision=self._runtime.revision(),
            warnings=warning_messages(written.warnings),
        )

    def GetMilestone(
        self, request: pb.GetMilestoneRequest, context: grpc.ServicerContext
    ) -> pb.GetMilestoneResponse:
        milestone = self._milestones.get_milestone(request.name)
        return pb.GetMilestoneResponse(milestone=convert.milestone_message(milestone))

    def ListMilestones(
        self, request: pb.ListMilestonesRequest, context: grpc.ServicerContext
    ) -> pb.ListMilestonesResponse:
        page = self._milestones.list_milestones(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListMilestonesResponse(
            milestones=map(convert.milestone_message, page.items), next_page_token=page.next_page_token
        )

    def UpdateMilestone(
        self, request: pb.UpdateMilestoneRequest, context: grpc.ServicerContext
    ) -> pb.UpdateMilestoneResponse:
        fields = masked_fields(request.milestone, request.update_mask, MILESTONE_FIELDS)
        record = convert.milestone_of_message(request.milestone, self._runtime.engine.limits)
        written = self._milestones.update_milestone(
            record, fields, request.milestone.etag, deadline=self._runtime.deadline(context)
        )
        return pb.UpdateMilestoneResponse(
            milestone=convert.milestone_message(written.record),
            revision=self._runtime.revision(),
            warnings=warning_messages(written.warnings),
        )

    def DeleteMilestone(
        self, request: pb.DeleteMilestoneRequest, context: grpc.ServicerContext
    ) -> pb.DeleteMilestoneResponse:
        self._milestones.delete_milestone(request.name, request.etag)
        return pb.DeleteMilestoneResponse(revision=self._runtime.revision())

    def MoveMilestone(
        self, request: pb.MoveMilestoneRequest, context: grpc.ServicerContext
    ) -> pb.MoveMilestoneResponse:
        moved = self._milestones.move_milestone(request.name, request.position, request.etag)
        return pb.MoveMilestoneResponse(
            milestone=convert.milestone_message(moved), revision=self._runtime.revision()
        )

    def ApplyJourney(
        self, request: pb.ApplyJourneyRequest, context: grpc.ServicerContext
    ) -> pb.ApplyJourneyResponse:
        applied = self._applying.apply(
            request.parent,
            convert.document_of_message(request.document, self._runtime.engine.limits),
            request.etag,
            validate_only=request.validate_only,
            deadline=self._runtime.deadline(context),
        )
        return pb.ApplyJourneyResponse(
            journey=None if applied.journey is None else self._message(applied.journey),
            changes=map(convert.change_message, applied.changes),
            warnings=warning_messages(applied.warnings),
            revision=self._runtime.revision(),
            version=None
            if applied.journey is None
            else convert.version_message(self._versions.current(applied.journey)),
        )

    def PreviewEdit(
        self, request: pb.PreviewEditRequest, context: grpc.ServicerContext
    ) -> pb.PreviewEditResponse:
        engine, at_least = self._runtime.engine, self._runtime.at_least(request.at_least)
        deadline = self._runtime.deadline(context)
        preview = engine.edit_previews.preview(
            edited_by(engine, request, deadline),
            as_of=optional_instant(request, "as_of"),
            at_least=at_least,
            deadline=deadline,
        )
        return pb.PreviewEditResponse(
            audiences=map(convert.edited_audience_message, preview.audiences),
            warnings=warning_messages(preview.warnings),
            evaluation=evaluation_message(preview, self._runtime.revisions),
        )

    def GetJourneyVersion(
        self, request: pb.GetJourneyVersionRequest, context: grpc.ServicerContext
    ) -> pb.GetJourneyVersionResponse:
        version = self._versions.get(request.name)
        return pb.GetJourneyVersionResponse(version=convert.version_message(version))

    def ListJourneyVersions(
        self, request: pb.ListJourneyVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListJourneyVersionsResponse:
        page = self._versions.list(request.parent, page_size=request.page_size, page_token=request.page_token)
        return pb.ListJourneyVersionsResponse(
            versions=map(convert.version_message, page.items), next_page_token=page.next_page_token
        )
