"""One test over all values of an argument, where a test for each would take longer than what it checks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

Test = Callable[..., None]


def each_of(
    argument: str, values: Collection[Any], name: Callable[[Any], str] = str
) -> Callable[[Test], Test]:
    """Calls the test with every value. All that fail are named, and the first failure is shown. Fixtures are
    those of one test.
    """

    def over_all(test: Test) -> Test:
        @functools.wraps(test)
        def walk(*arguments: Any, **named: Any) -> None:
            failures: list[tuple[str, Exception]] = []
            for value in values:
                try:
                    test(*arguments, **{**named, argument: value})
                except Exception as failure:
                    failures.append((name(value), failure))
            if failures:
                _, first = failures[0]
                first.add_note(f"{argument} = {', '.join(name for name, _ in failures)}")
                raise first

        signature = inspect.signature(test)
        others = [each for each in signature.parameters.values() if each.name != argument]
        walk.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return walk

    return over_all
