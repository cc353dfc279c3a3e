"""How many examples a property test draws: few in `make test`, many times as many in `make properties`."""

from __future__ import annotations

import os

TIMES = int(os.environ.get("MILEPOST_TEST_TIMES", "1"))
"""Factor of the numbers of examples in the tests."""

DEFAULT_EXAMPLES = 40
"""Of a test that does not say."""


def examples(count: int) -> int:
    """The number of examples where `make test` draws `count`."""
    return count * TIMES
