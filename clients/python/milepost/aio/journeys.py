"""Methods of JourneyService: journeys, their milestones and versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from google.protobuf.field_mask_pb2 import FieldMask

from milepost import names
from milepost.aio.base import PAGE_SIZE, AsyncClientBase, ensured, given
from milepost.criteria import checked
from milepost.errors import InvalidArgument
from milepost.normal_form import normal_form
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    Journey,
    JourneyDocument,
    JourneyVersion,
    Milestone,
)
from milepost.v1.journey_service_pb2 import (
    ApplyJourneyRequest,
    ApplyJourneyResponse,
    CloneJourneyRequest,
    CreateJourneyRequest,
    CreateMilestoneRequest,
    CreateMilestoneResponse,
    DeleteJourneyRequest,
    DeleteMilestoneRequest,
    GetJourneyRequest,
    GetJourneyVersionRequest,
    GetMilestoneRequest,
    ListJourneysRequest,
    ListJourneyVersionsRequest,
    ListMilestonesRequest,
    MoveMilestoneRequest,
    PreviewEditRequest,
    PreviewEditResponse,
    UpdateJourneyRequest,
    UpdateMilestoneRequest,
    UpdateMilestoneResponse,
)
from milepost.values import named, optional, to_timestamp


class AsyncJourneyMethods(AsyncClientBase):
    """Reads, builds and applies journeys."""

    # --- journeys ---

    async def create_journey(
        self,
        journey_id: str = "",
        *,
        display_name: str = "",
        inputs: Sequence[str] = (),
        request_id: str = "",
    ) -> Journey:
        """Creates a journey without milestones; without an id the service chooses one. `inputs` are
        "workspace/input" or names; none = all, including later ones. Raises AlreadyExists.
        """
        request = CreateJourneyRequest(
            parent=self.account_name,
            journey_id=journey_id,
            journey=Journey(display_name=display_name, inputs=self.input_names(inputs)),
            request_id=request_id,
        )
        return (await self.write(self.journeys.CreateJourney, request)).journey

    async def get_journey(self, journey: str) -> Journey:
        """A journey with its counts."""
        return (await self.journeys.GetJourney(GetJourneyRequest(name=self.journey_name(journey)))).journey

    async def list_journeys(self, *, query: str = "", order_by: str = "") -> AsyncIterator[Journey]:
        """The account's journeys with their counts."""
        request = ListJourneysRequest(
            parent=self.account_name, page_size=PAGE_SIZE, query=query, order_by=order_by
        )
        async for page in self.pages(self.journeys.ListJourneys, request):
            for each in page.journeys:
                yield each

    async def update_journey(
        self,
        journey: str,
        *,
        display_name: str | None = None,
        inputs: Sequence[str] | None = None,
        etag: str = "",
    ) -> Journey:
        """Changes what is given of a journey; no `inputs` = all. Raises Aborted when `etag` is not the
        current one.
        """
        fields = given(
            display_name=display_name,
            inputs=optional(self.input_names, inputs),
        )
        changed = Journey(name=self.journey_name(journey), etag=etag, **fields)
        request = UpdateJourneyRequest(journey=changed, update_mask=FieldMask(paths=fields))
        return (await self.journeys.UpdateJourney(request)).journey

    async def delete_journey(self, journey: str, *, etag: str = "") -> None:
        """Deletes a journey. Raises FailedPrecondition while it has milestones."""
        await self.journeys.DeleteJourney(DeleteJourneyRequest(name=self.journey_name(journey), etag=etag))

    async def clone_journey(
        self, journey: str, journey_id: str = "", *, display_name: str = "", request_id: str = ""
    ) -> Journey:
        """Copies a journey with its milestones, without connections. The copy's id is chosen by the service
        and its display name that of the original with " (copy)", unless they are given.
        """
        request = CloneJourneyRequest(
            name=self.journey_name(journey),
            journey_id=journey_id,
            display_name=display_name,
            request_id=request_id,
        )
        return (await self.write(self.journeys.CloneJourney, request)).journey

    async def ensure_journey(
        self, journey_id: str, *, display_name: str = "", inputs: Sequence[str] = ()
    ) -> Journey:
        """A journey, created if missing, and changed where it differs from what is given. What is not given
        stays; the display name of a new journey is then its id.
        """
        asked = Journey(
            name=names.journey(self.account_id, journey_id),
            display_name=display_name,
            inputs=self.input_names(inputs),
        )

        async def update(mask: FieldMask) -> Journey:
            request = UpdateJourneyRequest(journey=asked, update_mask=mask)
            return (await self.journeys.UpdateJourney(request)).journey

        return await ensured(
            asked,
            lambda: self.get_journey(asked.name),
            lambda: self.create_journey(journey_id, display_name=display_name or journey_id, inputs=inputs),
            update,
        )

    # --- documents and versions ---

    async def apply_journey(
        self, document: JourneyDocument, *, etag: str = "", validate_only: bool = False
    ) -> ApplyJourneyResponse:
        """Makes a journey what the document says, all of it or nothing. With `validate_only` it answers what
        would change. `milepost.journeys` reads documents from YAML.
        """
        request = ApplyJourneyRequest(
            parent=self.account_name, document=document, etag=etag, validate_only=validate_only
        )
        return await self.journeys.ApplyJourney(request)

    # --- previews of edits ---

    async def preview_apply_journey(
        self, document: JourneyDocument, *, etag: str = "", as_of: datetime | None = None, at_least: str = ""
    ) -> PreviewEditResponse:
        """How many users `apply_journey` would move in and out of activated audiences. Changes nothing, and
        raises what the edit would.
        """
        edit = ApplyJourneyRequest(parent=self.account_name, document=document, etag=etag)
        request = PreviewEditRequest(name=self.journey_name(document.journey), apply_journey=edit)
        return await self._previewed(request, as_of, at_least)

    async def preview_update_milestone(
        self,
        milestone: str,
        *,
        criteria: Criteria,
        etag: str = "",
        as_of: datetime | None = None,
        at_least: str = "",
    ) -> PreviewEditResponse:
        """As `preview_apply_journey`, for other criteria of a milestone."""
        changed = Milestone(
            name=self.target_name(milestone), etag=etag, criteria=checked("criteria", criteria)
        )
        edit = UpdateMilestoneRequest(milestone=changed, update_mask=FieldMask(paths=["criteria"]))
        request = PreviewEditRequest(name=names.journey_of(changed.name), update_milestone=edit)
        return await self._previewed(request, as_of, at_least)

    async def preview_move_milestone(
        self,
        milestone: str,
        position: int,
        *,
        etag: str = "",
        as_of: datetime | None = None,
        at_least: str = "",
    ) -> PreviewEditResponse:
        """As `preview_apply_journey`, for another position of a milestone."""
        edit = MoveMilestoneRequest(name=self.target_name(milestone), position=position, etag=etag)
        request = PreviewEditRequest(name=names.journey_of(edit.name), move_milestone=edit)
        return await self._previewed(request, as_of, at_least)

    async def preview_delete_milestone(
        self, milestone: str, *, etag: str = "", as_of: datetime | None = None, at_least: str = ""
    ) -> PreviewEditResponse:
        """As `preview_apply_journey`, for the deletion of a milestone."""
        edit = DeleteMilestoneRequest(name=self.target_name(milestone), etag=etag)
        request = PreviewEditRequest(name=names.journey_of(edit.name), delete_milestone=edit)
        return await self._previewed(request, as_of, at_least)

    async def _previewed(
        self, request: PreviewEditRequest, as_of: datetime | None, at_least: str
    ) -> PreviewEditResponse:
        if as_of is not None:
            request.as_of.CopyFrom(named("as_of", to_timestamp, as_of))
        request.at_least = at_least
        try:
            answer = await self.journeys.PreviewEdit(request)
        except InvalidArgument as error:
            # As the edit itself would name them.
            error.rename_fields(_in_edit)
            raise
        for warning in answer.warnings:
            warning.field = _in_edit(warning.field)
        return answer

    # --- versions ---

    async def get_journey_version(self, journey: str, version: int) -> JourneyVersion:
        """A version of a journey with its document."""
        request = GetJourneyVersionRequest(name=f"{self.journey_name(journey)}/versions/{version}")
        return (await self.journeys.GetJourneyVersion(request)).version

    async def list_journey_versions(self, journey: str) -> AsyncIterator[JourneyVersion]:
        """The versions of a journey, latest first, without documents."""
        request = ListJourneyVersionsRequest(parent=self.journey_name(journey), page_size=PAGE_SIZE)
        async for page in self.pages(self.journeys.ListJourneyVersions, request):
            for each in page.versions:
                yield each

    # --- milestones ---

    async def create_milestone(
        self,
        journey: str,
        milestone_id: str = "",
        *,
        criteria: Criteria | None = None,
        display_name: str = "",
        parent_milestone: str = "",
        request_id: str = "",
    ) -> CreateMilestoneResponse:
        """Creates a milestone and its audience, after its siblings and before remaining users. Without an id
        the service chooses one, without criteria it takes the remaining users. `parent_milestone` is a
        milestone of the same journey, whose users this one divides: its id, "journey/milestone", or its name.
        The answer has the milestone and warnings about its criteria. Raises AlreadyExists.
        """
        request = CreateMilestoneRequest(
            parent=self.journey_name(journey),
            milestone_id=milestone_id,
            milestone=self._milestone(journey, criteria, display_name, parent_milestone),
            request_id=request_id,
        )
        return await self.write(self.journeys.CreateMilestone, request)

    async def get_milestone(self, milestone: str) -> Milestone:
        """A milestone, "journey/milestone" or by name."""
        request = GetMilestoneRequest(name=self.target_name(milestone))
        return (await self.journeys.GetMilestone(request)).milestone

    async def list_milestones(self, journey: str) -> AsyncIterator[Milestone]:
        """A journey's milestones, parents before children and siblings in order."""
        request = ListMilestonesRequest(parent=self.journey_name(journey), page_size=PAGE_SIZE)
        async for page in self.pages(self.journeys.ListMilestones, request):
            for each in page.milestones:
                yield each

    async def update_milestone(
        self,
        milestone: str,
        *,
        criteria: Criteria | None = None,
        display_name: str | None = None,
        etag: str = "",
    ) -> UpdateMilestoneResponse:
        """Changes what is given of a milestone; outputs get only the differences. The answer has the
        milestone and warnings about its criteria. Raises Aborted when `etag` is not the current one.
        """
        fields = given(criteria=optional(_checked, criteria), display_name=display_name)
        changed = Milestone(name=self.target_name(milestone), etag=etag, **fields)
        request = UpdateMilestoneRequest(milestone=changed, update_mask=FieldMask(paths=fields))
        return await self.journeys.UpdateMilestone(request)

    async def move_milestone(self, milestone: str, position: int, *, etag: str = "") -> Milestone:
        """Moves a milestone to a position among its siblings, from 0. Beyond the last one it comes last,
        before remaining users.
        """
        request = MoveMilestoneRequest(name=self.target_name(milestone), position=position, etag=etag)
        return (await self.journeys.MoveMilestone(request)).milestone

    async def delete_milestone(self, milestone: str, *, etag: str = "") -> None:
        """Deletes a milestone with its audience and connections. Raises FailedPrecondition while it has
        children or other criteria name its audience.
        """
        request = DeleteMilestoneRequest(name=self.target_name(milestone), etag=etag)
        await self.journeys.DeleteMilestone(request)

    async def ensure_milestone(
        self,
        journey: str,
        milestone_id: str,
        *,
        criteria: Criteria | None = None,
        display_name: str = "",
        parent_milestone: str = "",
    ) -> Milestone:
        """A milestone, created if missing, and changed where it differs from what is given. What is not given
        stays, but no criteria = remaining users. The display name of a new one is by default its id, or
        "Remaining users". `parent_milestone` is as in `create_milestone`.

        Raises InvalidArgument when it has another kind or parent: they cannot change.
        """
        asked = self._milestone(journey, criteria, display_name, parent_milestone)
        asked.name = f"{self.journey_name(journey)}/milestones/{milestone_id}"
        default = names.REMAINING_USERS if criteria is None else milestone_id

        async def create() -> Milestone:
            created = await self.create_milestone(
                journey,
                milestone_id,
                criteria=criteria,
                display_name=display_name or default,
                parent_milestone=parent_milestone,
            )
            return created.milestone

        async def update(mask: FieldMask) -> Milestone:
            request = UpdateMilestoneRequest(milestone=asked, update_mask=mask)
            return (await self.journeys.UpdateMilestone(request)).milestone

        return await ensured(
            asked,
            lambda: self.get_milestone(asked.name),
            create,
            update,
        )

    def _milestone(
        self, journey: str, criteria: Criteria | None, display_name: str, parent_milestone: str
    ) -> Milestone:
        return Milestone(
            display_name=display_name,
            parent_milestone=self.milestone_name(parent_milestone, journey) if parent_milestone else "",
            kind=MILESTONE_KIND_REMAINING_USERS if criteria is None else MILESTONE_KIND_CRITERIA,
            # The form in which the service stores criteria, so that equal ones compare equal.
            criteria=optional(normal_form, optional(_checked, criteria)),
        )


def _in_edit(field: str) -> str:
    """The path in the request that makes an edit, of a path in the request that previews it."""
    kind, _, path = field.partition(".")
    edits = PreviewEditRequest.DESCRIPTOR.oneofs_by_name["edit"].fields
    return path if kind in [each.name for each in edits] else field


def _checked(criteria: Criteria) -> Criteria:
    return checked("criteria", criteria)
