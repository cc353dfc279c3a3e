"""The measures of engine and service as Prometheus metrics, named `milepost_…`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.errors import MilepostError
from engine.measures import DurationCounts, Measure

PREFIX = "milepost_"
_INFINITE = "+Inf"


class MeasureCollector(Collector):
    """Asks for all measures whenever the metrics are read."""

    def __init__(self, read: Callable[[], Iterable[Measure]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing: without this method a registry would read the measures when the collector is added."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One metric for each name."""
        by_name: dict[str, list[Measure]] = {}
        is_complete = True
        try:
            for measure in self._read():
                by_name.setdefault(measure.name, []).append(measure)
        except MilepostError:
            # A damaged or closing store: what was read before is still true.
            is_complete = False
        for name, measures in by_name.items():
            yield _metric(PREFIX + name, measures)
        yield GaugeMetricFamily(
            PREFIX + "measures_complete", "0 when some metrics could not be read.", value=float(is_complete)
        )


def _metric(name: str, measures: list[Measure]) -> Metric:
    first = measures[0]
    labels = tuple(first.labels)
    if first.kind == "durations":
        histogram = HistogramMetricFamily(name, first.help, labels=labels)
        for measure in measures:
            assert isinstance(measure.value, DurationCounts)
            histogram.add_metric(
                tuple(measure.labels.values()), buckets_of(measure.value), measure.value.sum_s
            )
        return histogram
    family = CounterMetricFamily if first.kind == "counter" else GaugeMetricFamily
    metric = family(name, first.help, labels=labels)
    for measure in measures:
        assert not isinstance(measure.value, DurationCounts)
        metric.add_metric(tuple(measure.labels.values()), float(measure.value))
    return metric


def buckets_of(counts: DurationCounts) -> list[tuple[str, float]]:
    """Upper bound and the number of durations up to it, as Prometheus counts them."""
    bounds = (*map(str, counts.bounds_s), _INFINITE)
    return list(zip(bounds, itertools.accumulate(map(float, counts.counts)), strict=True))
