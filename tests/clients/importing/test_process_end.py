"""The end of the process after an import, whatever came of it: no reader is left open that could abort it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.clients.importing.command import Target

ROUNDS = 2
MAIN = "from milepost.cli import main; main()"
HEADER = "user_id,name,time,a\n"
ROW = "u,buy,2024-01-01,1\n"
MANY = ROW * 250_000
"""More than a block."""


def test_an_import_that_is_refused_ends_with_its_exit_status(target: Target, tmp_path: Path) -> None:
    contents = {
        "twice.csv": ("user_id,name,time,a,a\n", "has more than one column 'a'"),
        "open.csv": (HEADER + MANY + 'u,buy,"2024-01-01,1\n', "row 250000 has a quote that is not closed"),
        "unnamed.csv": ("user_id,name,time,\n" + ROW + MANY, "column 4 has no name, but row 0 has '1'"),
        "broken.parquet": ("PAR1" + ROW, "is no Parquet file"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    options = ["--input", "w/i", "--target", target.address, "--account", target.account]
    for _ in range(ROUNDS):
        started = {
            name: subprocess.Popen(
                [sys.executable, "-c", MAIN, "import", str(tmp_path / name), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name in contents
        }
        for name, (_, message) in contents.items():
            shown, _ = started[name].communicate(timeout=60)
            assert message in shown
            assert started[name].returncode == 1, shown
    assert target.events() == 0
