"""The benchmark of local checks measures checks that answer."""

from __future__ import annotations

import io
import re
from datetime import timedelta

from rich.console import Console

from milepost._local import LocalAnswers
from tests.bench import local_checks


def test_the_world_of_the_benchmark_is_followed() -> None:
    local = LocalAnswers({local_checks.TARGET: local_checks.TARGET}, timedelta(hours=1))
    local_checks._take(local, local_checks._snapshot(2_500))
    answers = [local.check(local_checks._user(n), local_checks.TARGET) for n in (0, 2_499, 2_500)]
    assert answers == [True, True, False]


def test_the_table_has_every_figure() -> None:
    printed = io.StringIO()
    local_checks.print_table(1_000, Console(file=printed, width=100))
    assert re.search(r"checks, CPU +│ [\d,]+ ns a check, [\d,]+ checks/s", printed.getvalue())
    assert re.search(r"memory +│ -?[\d,]+ MB", printed.getvalue())
