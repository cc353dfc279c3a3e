"""Sizes that a reader answers: counts, and estimates that are exact."""

from __future__ import annotations

import grpc

from engine.audiences.estimate import check_precision, counts_everyone
from engine.audiences.model import Count, Estimate, Precision
from engine.audiences.sampling import exact_size
from engine.audiences.sizes import Stopwatch
from engine.backends.base import Outlook, ServedEstimate
from engine.errors import InvalidInput
from milepost.v1 import audience_service_pb2 as pb
from service.convert.sizes import count_message, estimate_message, precision_of
from service.readers.answering import AUDIENCE_SERVICE, Answering, HandOn
from service.reading import RequestReader

COUNT_METHOD = f"{AUDIENCE_SERVICE}CountAudience"
ESTIMATE_METHOD = f"{AUDIENCE_SERVICE}EstimateAudience"


class SizeAnswers:
    """Answers CountAudience and EstimateAudience."""

    def __init__(self, answering: Answering, reader: RequestReader) -> None:
        self._answering = answering
        self._served = answering.served
        self._read_count = reader.of(COUNT_METHOD, pb.CountAudienceRequest.FromString)
        self._read_estimate = reader.of(ESTIMATE_METHOD, pb.EstimateAudienceRequest.FromString)

    def count(self, hand_on: HandOn) -> HandOn:
        """The behaviour of CountAudience."""
        return self._answering.unary(COUNT_METHOD, self._count, hand_on)

    def estimate(self, hand_on: HandOn) -> HandOn:
        """The behaviour of EstimateAudience."""
        return self._answering.unary(ESTIMATE_METHOD, self._estimate, hand_on)

    def _count(self, request: bytes, context: grpc.ServicerContext) -> bytes | None:
        watch = Stopwatch()
        asked = self._read_count(request)
        if not isinstance(asked, pb.CountAudienceRequest) or not self._answering.is_for_now(asked):
            return None
        name = asked.name
        found = self._answering.admitted(name, lambda: self._served.count(name))
        if found is None:
            return None
        count = Count(
            users=found.users,
            population=found.population,
            as_of=found.as_of,
            revision=found.revision,
            elapsed=watch.elapsed(),
        )
        return count_message(count, self._answering.revisions).SerializeToString()

    def _estimate(self, request: bytes, context: grpc.ServicerContext) -> bytes | None:
        watch = Stopwatch()
        asked = self._read_estimate(request)
        if not isinstance(asked, pb.EstimateAudienceRequest) or not self._answering.is_for_now(asked):
            return None
        precision = _precision_of(asked)
        if precision is None or asked.WhichOneof("target") != "name":
            return None
        name = asked.name
        found = self._answering.admitted(name, lambda: self._served.estimate(name))
        if found is None or not _is_answered(found, precision):
            return None
        estimate = Estimate(
            size=exact_size(found.count.users),
            labelled=(),
            population=found.count.population,
            draw=exact_size(found.draw),
            as_of=found.count.as_of,
            revision=found.count.revision,
            elapsed=watch.elapsed(),
            warnings=(),
        )
        return estimate_message(estimate, self._answering.revisions).SerializeToString()


def _is_answered(found: ServedEstimate, precision: Precision) -> bool:
    if not found.draw and found.has_before:
        # The writer may warn that others take everyone.
        return False
    return counts_everyone(precision, Outlook(found.count.population, found.work))


def _precision_of(asked: pb.EstimateAudienceRequest) -> Precision | None:
    """The precision asked for; None when it is refused."""
    try:
        precision = precision_of(asked)
        check_precision(precision)
    except InvalidInput:
        return None
    return precision
