# Generated from milepost/aio/audiences.py: edit that file, then run `make client`.
"""Methods of AudienceService: sizes, members, changes, explanations.

Questions take `as_of`, the instant to answer for (default: now), and `at_least`, a revision of an earlier
write that the answer must include.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from milepost._arguments import require_several
from milepost._previews import in_document, preview_milestones
from milepost.client.base import PAGE_SIZE, ClientBase, given
from milepost.client.local import PROGRESS_INTERVAL, READY_TIMEOUT_SECONDS, LocalChecks
from milepost.client.watching import WATCH_ATTEMPTS_MAX, Watch, WatchTogether
from milepost.errors import MilepostError, SizeFailed, not_found
from milepost.v1.audience_pb2 import SIZE_STATE_FAILED, Audience
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER,
    MEMBERSHIP_STATUS_UNKNOWN_AUDIENCE,
    SIZE_INTERVAL_DAY,
    AudienceSizePoint,
    BatchCheckMembershipRequest,
    CheckMembershipRequest,
    CompareAudiencesRequest,
    CompareAudiencesResponse,
    CountAudienceRequest,
    CountAudienceResponse,
    EstimateAudienceRequest,
    EstimateAudienceResponse,
    ExplainAudienceRequest,
    ExplainAudienceResponse,
    ExplainMembershipRequest,
    ExplainMembershipResponse,
    ExportMembersRequest,
    GetAudienceRequest,
    GetJourneyFunnelRequest,
    GetJourneyFunnelResponse,
    ListAudienceSizesRequest,
    ListAudiencesRequest,
    ListMembersRequest,
    ListUserAudiencesRequest,
    MilestoneDraft,
    PreviewJourneyRequest,
    PreviewJourneyResponse,
    SizeInterval,
    UpdateAudienceRequest,
    WatchMembershipRequest,
)
from milepost.v1.journey_pb2 import JourneyDocument
from milepost.values import optional, to_duration, to_timestamp


class AudienceMethods(ClientBase):
    """Sizes audiences, and answers who is in them.

    A `target` is a milestone as "journey/milestone", an audience by its id, or the full name of either.
    """

    # --- audiences ---

    def get_audience(self, target: str) -> Audience:
        """An audience with the size to show. Look at the state of the size first: `users` is 0 while it is
        PENDING or FAILED.
        """
        request = GetAudienceRequest(name=self.audience_name(target))
        return self.audiences.GetAudience(request).audience

    def list_audiences(self, *, journey: str = "") -> Iterator[Audience]:
        """The account's audiences, or those of a journey, in order of name and without sizes."""
        request = ListAudiencesRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            journey=self.journey_name(journey) if journey else "",
        )
        for page in self.pages(self.audiences.ListAudiences, request):
            yield from page.audiences

    def update_audience(self, target: str, *, external_name: str | None = None, etag: str = "") -> Audience:
        """Changes what is given of an audience: its name for downstream systems. Raises Aborted when `etag`
        is not the current one.
        """
        fields = given(external_name=external_name)
        changed = Audience(name=self.audience_name(target), etag=etag, **fields)
        request = UpdateAudienceRequest(audience=changed, update_mask=FieldMask(paths=fields))
        return self.audiences.UpdateAudience(request).audience

    # --- sizes ---

    def estimate(
        self,
        target: str | MilestoneDraft,
        *,
        exact: bool = False,
        max_relative_error: float | None = None,
        time_budget: timedelta | None = None,
        as_of: datetime | None = None,
        at_least: str = "",
    ) -> EstimateAudienceResponse:
        """The size of a milestone, saved or draft, and of each labelled criterion; see `EstimateAudience`.

        At most one of `exact`, `max_relative_error` and `time_budget`; without one, exact when that is fast.
        Raises SizeFailed when one of the sizes is FAILED: its `users` would read 0.
        """
        if exact + (max_relative_error is not None) + (time_budget is not None) > 1:
            raise ValueError("set at most one of exact, max_relative_error and time_budget")
        request = EstimateAudienceRequest(
            **self._target(target),
            **given(
                exact=exact or None,
                max_relative_error=max_relative_error,
                time_budget=optional(to_duration, time_budget, "time_budget"),
            ),
            as_of=optional(to_timestamp, as_of, "as_of"),
            at_least=at_least,
        )
        answer = self.audiences.EstimateAudience(request)
        for size in (answer.size, *(each.size for each in answer.labelled), answer.draw):
            if size.state == SIZE_STATE_FAILED:
                raise SizeFailed(answer, size.failure)
        return answer

    def count(
        self, target: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> CountAudienceResponse:
        """The exact size."""
        return self.audiences.CountAudience(
            CountAudienceRequest(
                name=self.target_name(target), as_of=optional(to_timestamp, as_of, "as_of"), at_least=at_least
            )
        )

    def compare_audiences(
        self, targets: Sequence[str], *, as_of: datetime | None = None, at_least: str = ""
    ) -> CompareAudiencesResponse:
        """The exact size of every intersection of 2-5 audiences or milestones. The answer names audiences."""
        return self.audiences.CompareAudiences(
            CompareAudiencesRequest(
                audiences=self.target_names(targets),
                as_of=optional(to_timestamp, as_of, "as_of"),
                at_least=at_least,
            )
        )

    def get_journey_funnel(
        self, journey: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> GetJourneyFunnelResponse:
        """The exact size of each milestone of a journey, all at one instant."""
        return self.audiences.GetJourneyFunnel(
            GetJourneyFunnelRequest(
                name=self.journey_name(journey),
                as_of=optional(to_timestamp, as_of, "as_of"),
                at_least=at_least,
            )
        )

    def preview_journey(
        self, document: JourneyDocument, *, as_of: datetime | None = None, at_least: str = ""
    ) -> PreviewJourneyResponse:
        """The funnel of a journey that is not saved. `milepost.journeys` reads documents from YAML. Warnings
        and errors name fields of the document.
        """
        request = PreviewJourneyRequest(
            parent=self.account_name,
            inputs=self.input_names(document.inputs),
            as_of=optional(to_timestamp, as_of, "as_of"),
            at_least=at_least,
        )
        paths = []
        for path, milestone in preview_milestones(document.milestones):
            paths.append(path)
            request.milestones.append(milestone)
        try:
            answer = self.audiences.PreviewJourney(request)
        except MilepostError as error:
            error.rename_fields(lambda field: in_document(field, paths))
            raise
        for warning in answer.warnings:
            warning.field = in_document(warning.field, paths)
        return answer

    def list_audience_sizes(
        self, target: str, *, interval: SizeInterval.ValueType = SIZE_INTERVAL_DAY
    ) -> Iterator[AudienceSizePoint]:
        """Past sizes of a calculated audience, by day or `SIZE_INTERVAL_HOUR`, latest first."""
        request = ListAudienceSizesRequest(
            parent=self.audience_name(target), page_size=PAGE_SIZE, interval=interval
        )
        for page in self.pages(self.audiences.ListAudienceSizes, request):
            yield from page.audience_sizes

    # --- membership ---

    def check(self, user_id: str, target: str, *, as_of: datetime | None = None, at_least: str = "") -> bool:
        """Whether the user is in the audience."""
        request = CheckMembershipRequest(
            audience=self.target_name(target),
            user_id=user_id,
            as_of=optional(to_timestamp, as_of, "as_of"),
            at_least=at_least,
        )
        return self.audiences.CheckMembership(request).member

    def check_many(
        self,
        user_ids: Sequence[str],
        targets: Sequence[str],
        *,
        as_of: datetime | None = None,
        at_least: str = "",
    ) -> dict[str, set[str]]:
        """For each user the full names of those milestones and audiences that the user is in. At most 10,000
        pairs. Raises NotFound for one that does not exist, as `check` does.
        """
        require_several(user_ids=user_ids)
        asked = self.target_names(targets)
        answer = self.audiences.BatchCheckMembership(
            BatchCheckMembershipRequest(
                parent=self.account_name,
                user_ids=user_ids,
                audiences=asked,
                as_of=optional(to_timestamp, as_of, "as_of"),
                at_least=at_least,
            )
        )
        found: dict[str, set[str]] = {}
        for user in answer.users:
            statuses = dict(zip(asked, user.statuses, strict=True))
            for name, status in statuses.items():
                if status == MEMBERSHIP_STATUS_UNKNOWN_AUDIENCE:
                    raise not_found(name)
            found[user.user_id] = {n for n, status in statuses.items() if status == MEMBERSHIP_STATUS_MEMBER}
        return found

    def list_user_audiences(
        self, user_id: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> Iterator[Audience]:
        """The audiences that a user is in, in order of name and without sizes."""
        request = ListUserAudiencesRequest(
            parent=self.account_name,
            user_id=user_id,
            page_size=PAGE_SIZE,
            as_of=optional(to_timestamp, as_of, "as_of"),
            at_least=at_least,
        )
        for page in self.pages(self.audiences.ListUserAudiences, request):
            yield from page.audiences

    def list_members(
        self, target: str, *, as_of: datetime | None = None, at_least: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[str]:
        """The user ids in a milestone or an audience by pages, all evaluated at one instant."""
        request = ListMembersRequest(
            parent=self.target_name(target),
            page_size=page_size,
            as_of=optional(to_timestamp, as_of, "as_of"),
            at_least=at_least,
        )
        for page in self.pages(self.audiences.ListMembers, request):
            yield from page.user_ids

    def export_members(
        self, target: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> Iterator[str]:
        """All user ids in a milestone or an audience in one stream, evaluated at one instant."""
        request = ExportMembersRequest(
            name=self.target_name(target), as_of=optional(to_timestamp, as_of, "as_of"), at_least=at_least
        )
        parts: Any = self.audiences.ExportMembers(request)
        try:
            for part in parts:
                yield from part.user_ids
        finally:
            # A caller who stops early leaves nothing running on the service.
            parts.cancel()

    def watch(
        self,
        target: str,
        *,
        cursor: int | None = None,
        epoch: str = "",
        progress_interval: timedelta | None = None,
        attempts_max: int = WATCH_ATTEMPTS_MAX,
    ) -> Watch:
        """Changes of a calculated audience after `cursor`, which is one of the `epoch` that came with it.
        Without one, a snapshot of its members comes first.

        Yields the messages of the contract: `SnapshotBegin`, `MembershipSnapshot`, `SnapshotEnd`,
        `MembershipChange` and `ProgressMark`. Continues after broken connections; `attempts_max`
        attempts in a row without a service that opens the watch end it. See what it returns.
        """
        request = WatchMembershipRequest(
            audience=self.target_name(target),
            progress_interval=optional(to_duration, progress_interval, "progress_interval"),
        )
        if cursor is None:
            request.snapshot = True
        else:
            request.cursor, request.epoch = cursor, epoch
        return Watch(self.audiences.WatchMembership, request, attempts_max)

    def watch_together(
        self,
        targets: Sequence[str],
        *,
        position: str = "",
        progress_interval: timedelta | None = None,
        attempts_max: int = WATCH_ATTEMPTS_MAX,
    ) -> WatchTogether:
        """Changes of up to 200 calculated audiences in one stream, after a `position` of an earlier watch.
        Without one, and for an audience that is not in it, a snapshot of the members comes first.

        Yields `WatchedTogether`: which audience, and an update as `watch` yields them. Continues after broken
        connections; `attempts_max` attempts in a row without a service that opens the watch end it. See what
        it returns.
        """
        request = WatchMembershipRequest(
            position=position, progress_interval=optional(to_duration, progress_interval, "progress_interval")
        )
        require_several(targets=targets)
        names = {self.target_name(target): target for target in targets}
        return WatchTogether(self.audiences.WatchMembership, request, attempts_max, names)

    def local(
        self,
        targets: Sequence[str],
        *,
        max_staleness: timedelta | None = None,
        progress_interval: timedelta = PROGRESS_INTERVAL,
        ready_timeout: float = READY_TIMEOUT_SECONDS,
    ) -> LocalChecks:
        """Follows activated audiences into this process, to check users without a call: see what it returns.
        To be used in a `with`, which waits up to `ready_timeout` seconds for the members.

        Answers that are further behind than `max_staleness` raise TooStale; without one they go on while the
        service is out of reach. `progress_interval` is the time between two states.
        """
        return LocalChecks(
            self,
            targets,
            max_staleness=max_staleness,
            progress_interval=progress_interval,
            ready_timeout=ready_timeout,
        )

    # --- explanations ---

    def explain_membership(
        self, user_id: str, target: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> ExplainMembershipResponse:
        """Which criteria let the user into the audience, or keep it out."""
        return self.audiences.ExplainMembership(
            ExplainMembershipRequest(
                name=self.target_name(target),
                user_id=user_id,
                as_of=optional(to_timestamp, as_of, "as_of"),
                at_least=at_least,
            )
        )

    def explain_audience(
        self, target: str | MilestoneDraft, *, as_of: datetime | None = None, at_least: str = ""
    ) -> ExplainAudienceResponse:
        """The query plan of a milestone, saved or draft, with the users and the time of each step."""
        return self.audiences.ExplainAudience(
            ExplainAudienceRequest(
                **self._target(target), as_of=optional(to_timestamp, as_of, "as_of"), at_least=at_least
            )
        )

    def _target(self, target: str | MilestoneDraft) -> dict[str, Any]:
        """The field of a request that says what is asked about."""
        return {"draft": target} if isinstance(target, MilestoneDraft) else {"name": self.target_name(target)}
