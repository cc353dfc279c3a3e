"""A journey that splits users by an attribute, and questions about its audiences."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import text_format

from milepost.v1 import audience_service_pb2, criteria_pb2, journey_pb2, journey_service_pb2
from service.readers.shared_port import SOCKET_NAME
from tests.harness import ACCOUNT, Serving, Stubs
from tests.service.delivery.test_delivery import JOURNEY, build, connect

GOLD = f"{JOURNEY}/milestones/gold"
OTHERS = f"{JOURNEY}/milestones/others"
MEMBER = audience_service_pb2.MEMBERSHIP_STATUS_MEMBER
NOT_MEMBER = audience_service_pb2.MEMBERSHIP_STATUS_NOT_MEMBER


def build_split(service: Serving) -> None:
    """Users u1, u2 and u3 are gold, u4 is not; both audiences of the split are activated."""
    gold = build(service)
    others = service.journeys.CreateMilestone(
        journey_service_pb2.CreateMilestoneRequest(
            parent=JOURNEY,
            milestone_id="others",
            milestone=journey_pb2.Milestone(kind=journey_pb2.MILESTONE_KIND_REMAINING_USERS),
        )
    ).milestone.audience
    connect(service, gold, "gold")
    connect(service, others, "others")


def writer_address(service: Serving) -> str:
    """Where the writer itself listens."""
    return f"unix:{service.config.data_dir / SOCKET_NAME}"


def check(stubs: Stubs, user_id: str, audience: str = GOLD, at_least: str = "") -> bool:
    """CheckMembership."""
    request = audience_service_pb2.CheckMembershipRequest(
        audience=audience, user_id=user_id, at_least=at_least
    )
    return stubs.audiences.CheckMembership(request).member


def ask_for_tier(stubs: Stubs, tier: str) -> None:
    """Edits the milestone of gold users, so that it asks for another tier."""
    criteria = text_format.Parse(
        f'user_attribute {{ key: "tier" test {{ equals {{ string_value: "{tier}" }} }} }}',
        criteria_pb2.Criteria(),
    )
    request = journey_service_pb2.UpdateMilestoneRequest(
        milestone=journey_pb2.Milestone(name=GOLD, criteria=criteria)
    )
    request.update_mask.paths.append("criteria")
    stubs.journeys.UpdateMilestone(request)


def batch(
    stubs: Stubs, user_ids: Sequence[str], audiences: Sequence[str] = (GOLD, OTHERS)
) -> list[list[int]]:
    """BatchCheckMembership: the statuses by user."""
    request = audience_service_pb2.BatchCheckMembershipRequest(
        parent=ACCOUNT, user_ids=user_ids, audiences=audiences
    )
    answer = stubs.audiences.BatchCheckMembership(request)
    assert [user.user_id for user in answer.users] == list(user_ids)
    return [list(user.statuses) for user in answer.users]
