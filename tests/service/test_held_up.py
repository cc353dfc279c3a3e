"""Other calls do not wait for one that searches strings for long, and the search ends with its call.

The search is stopped within the first string, so nothing depends on timing: a call that needed what the
search holds would wait for ever.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.backends.local.storage.matching import SEARCHED_PER_CHECK
from engine.bounded_cache import BoundedCache
from engine.criteria.operators import text
from engine.deadline import Deadline
from milepost.v1 import audience_service_pb2 as pb
from milepost.v1 import (
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
    value_pb2,
)
from service import deadlines
from service.interpreter import SWITCH_SECONDS, share_interpreter
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Serving, eventually, serving

USERS = 200
JOURNEY = f"{ACCOUNT}/journeys/j"
SEARCHING = f"{JOURNEY}/milestones/searching"
LOOKED_UP = f"{JOURNEY}/milestones/looked-up"


class Search:
    """Searches of the expression stop until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.searched = 0

    def searcher(self, _expression: object) -> Callable[[bytes], bool]:
        """Stands for the search of an expression: finds what has a 7."""

        def found(value: bytes) -> bool:
            self.searched += 1
            self.begun.set()
            assert self.may_go_on.wait(CALL_TIMEOUT_S)
            return b"7" in value

        return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory: Path = tmp_path_factory.mktemp("data")
    with serving(directory, refresh_interval_ms=3_600_000) as opened:
        opened.create_inputs()
        journeys = opened.journeys
        journeys.CreateJourney(
            journey_service_pb2.CreateJourneyRequest(
                parent=ACCOUNT, journey_id="j", journey=journey_pb2.Journey(display_name="J")
            )
        )
        for milestone_id, criteria in (
            ("looked-up", _attribute(equals=value_pb2.Value(string_value="word 1"))),
            ("searching", _attribute(matches="w.*7")),
        ):
            journeys.CreateMilestone(
                journey_service_pb2.CreateMilestoneRequest(
                    parent=JOURNEY,
                    milestone_id=milestone_id,
                    milestone=journey_pb2.Milestone(display_name=milestone_id, criteria=criteria),
                )
            )
        _ingest(opened, range(USERS))
        yield opened


def _attribute(**test: Any) -> criteria_pb2.Criteria:
    value_test = criteria_pb2.ValueTest(**test)
    return criteria_pb2.Criteria(
        user_attribute=criteria_pb2.UserAttributeCriterion(key="word", test=value_test)
    )


def _ingest(service: Serving, users: range) -> None:
    updates = [
        data_pb2.UserUpdate(
            user_id=f"u{user}", attributes={"word": value_pb2.Value(string_value=f"word {user}")}
        )
        for user in users
    ]
    for update in updates:
        update.time.GetCurrentTime()
    request = ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=updates)
    assert service.ingest.UpsertUsers(request, timeout=CALL_TIMEOUT_S).accepted == len(users)


CALLS: dict[str, Callable[[Serving], Any]] = {
    "CountAudience": lambda s: s.audiences.CountAudience.future(pb.CountAudienceRequest(name=SEARCHING)),
    "EstimateAudience": lambda s: s.audiences.EstimateAudience.future(
        pb.EstimateAudienceRequest(name=SEARCHING)
    ),
    "CompareAudiences": lambda s: s.audiences.CompareAudiences.future(
        pb.CompareAudiencesRequest(audiences=[SEARCHING, LOOKED_UP])
    ),
    "GetJourneyFunnel": lambda s: s.audiences.GetJourneyFunnel.future(
        pb.GetJourneyFunnelRequest(name=JOURNEY)
    ),
    "ListMembers": lambda s: s.audiences.ListMembers.future(pb.ListMembersRequest(parent=SEARCHING)),
    "BatchCheckMembership": lambda s: s.audiences.BatchCheckMembership.future(
        pb.BatchCheckMembershipRequest(
            parent=ACCOUNT, user_ids=[f"u{user}" for user in range(USERS)], audiences=[SEARCHING]
        )
    ),
    "ExplainAudience": lambda s: s.audiences.ExplainAudience.future(
        pb.ExplainAudienceRequest(name=SEARCHING)
    ),
    "ExportMembers": lambda s: s.audiences.ExportMembers(pb.ExportMembersRequest(name=SEARCHING)),
}


@pytest.mark.parametrize("method", CALLS)
def test_nobody_waits_for_a_search_and_it_ends_with_its_call(
    service: Serving, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    search = Search()
    monkeypatch.setattr(text, "_searcher", search.searcher)
    made: list[Deadline] = []

    def deadline(*args: Any) -> Deadline:
        made.append(Deadline(*args))
        return made[-1]

    monkeypatch.setattr(deadlines, "Deadline", deadline)
    for cache in BoundedCache.live:
        cache.clear()
    # 1. The call searches and does not come to an end.
    call = CALLS[method](service)
    assert search.begun.wait(CALL_TIMEOUT_S)
    # 2. Others check, count and write meanwhile.
    check = pb.CheckMembershipRequest(audience=LOOKED_UP, user_id="u1")
    assert service.audiences.CheckMembership(check, timeout=CALL_TIMEOUT_S).member
    count = pb.CountAudienceRequest(name=LOOKED_UP)
    assert service.audiences.CountAudience(count, timeout=CALL_TIMEOUT_S).users == 1
    _ingest(service, range(USERS))
    # 3. The caller gives up, and the search ends after a few more strings.
    call.cancel()
    with pytest.raises((grpc.FutureCancelledError, grpc.RpcError)):
        next(call) if method == "ExportMembers" else call.result(timeout=CALL_TIMEOUT_S)
    eventually(made[0].is_cancelled)
    searched = search.searched
    search.may_go_on.set()
    eventually(lambda: service.application.in_flight == 0)
    assert search.searched <= searched + 2 * SEARCHED_PER_CHECK
    for cache in BoundedCache.live:
        cache.clear()


def test_a_quick_call_gets_the_interpreter_soon() -> None:
    before = sys.getswitchinterval()
    try:
        share_interpreter()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(before)
