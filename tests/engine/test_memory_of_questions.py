"""Questions leave no more memory behind than the budgets of the caches, however large their criteria are."""

from __future__ import annotations

import ast
import gc
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.audiences.model import Draft
from engine.bounded_cache import BoundedCache
from engine.criteria.model import Criterion, Equals, In, Text, UserAttribute
from engine.values import Value
from tests.engine.site import JOURNEY, Site

REPOSITORY = Path(__file__).parents[2]
QUESTIONS = 15
SLACK_BYTES = 24 << 20
VALUES = 10_000

KEEPS_BY_NUMBER = re.compile(r"\b(lru_cache|cache)\b")
KEYED_BY_FEW = {
    ("engine/criteria/zones.py", "offsets_in_span"),
    ("engine/backends/clickhouse/query/folding.py", "_folded_by_python"),
    ("engine/backends/local/events/columns.py", "_limits_of"),
    ("engine/backends/local/events/days.py", "_offsets"),
    ("engine/backends/local/events/decimals.py", "integer_bounds"),
    ("engine/backends/local/membership/states.py", "_members_key"),
    ("engine/backends/local/membership/states.py", "_state_key"),
    ("engine/backends/local/storage/step_cache.py", "_reads_of_one"),
    ("engine/backends/local/users/directory.py", "_alive_key"),
    ("engine/backends/local/users/directory.py", "_page_keys"),
    ("engine/backends/local/users/first_last_seen.py", "_belonging_key"),
    ("engine/backends/local/users/first_last_seen.py", "_page_key"),
    ("engine/process_memory.py", "_function"),
    ("service/delivery/trust.py", "_trusting"),
    ("service/delivery/sinks/nats.py", "_client_class"),
    ("service/delivery/sinks/redis.py", "_connection_class"),
}
"""Functions that keep results by number: arguments and results have at most a few hundred bytes, or there are
at most two results, chosen by the operator or the code.
"""


def _long_strings(number: int) -> tuple[Value, ...]:
    return tuple(f"{number:03d}-{value:05d}-{'x' * 350}" for value in range(VALUES))


def _numbers(number: int) -> tuple[Value, ...]:
    return tuple(number + value * 7.3 for value in range(VALUES))


def _tests(make: Callable[[int], tuple[Value, ...]]) -> Callable[[int], Criterion]:
    return lambda number: UserAttribute(key="plan", test=In(values=make(number)))


@pytest.mark.parametrize(
    "criterion",
    [
        pytest.param(_tests(_long_strings), id="strings"),
        pytest.param(_tests(_numbers), id="numbers"),
        pytest.param(
            lambda number: UserAttribute(
                key="plan", test=Text(op="matches", pattern=f"{number}(a|b|c){{0,{number}}}[a-z]{{0,20}}")
            ),
            id="expressions",
        ),
    ],
)
def test_large_questions_leave_no_more_than_the_budgets(
    tmp_path: Path, criterion: Callable[[int], Criterion]
) -> None:
    site = Site(tmp_path)
    site.update("ann", {"plan": "basic"})
    ask = site.engine.sizes.estimate
    ask(Draft(journey=JOURNEY, criteria=UserAttribute(key="plan", test=Equals("basic"))))
    for cache in BoundedCache.live:
        cache.clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(QUESTIONS):
            ask(Draft(journey=JOURNEY, criteria=criterion(number)))
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    caches = list(BoundedCache.live)
    assert {"plans", "matchers", "names", "trials", "steps"} <= {cache.name for cache in caches}
    for cache in caches:
        assert cache.nbytes <= cache.bytes_max or len(cache) == 1, cache.name
    assert kept <= sum(cache.nbytes for cache in caches) + SLACK_BYTES
    site.engine.close()


def test_results_are_kept_by_bytes() -> None:
    """A cache that counts values is refused where a caller chooses their size."""
    found = set()
    for root in ("engine", "service"):
        for path in (REPOSITORY / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and any(
                    KEEPS_BY_NUMBER.search(ast.unparse(each)) for each in node.decorator_list
                ):
                    found.add((str(path.relative_to(REPOSITORY)), node.name))
    assert found == KEYED_BY_FEW
