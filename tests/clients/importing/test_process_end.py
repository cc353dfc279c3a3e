"""The process of an import: what it loads, and its end, which no reader that is left open may abort."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from tests.clients.importing.command import Target

MAIN = "from milepost.cli import main; main()"
HEADER = "user_id,name,time,a\n"
ROW = "u,buy,2024-01-01,1\n"
MANY = ROW * 250_000
"""More than a block."""


def test_a_refused_import_exits_with_its_status(target: Target, tmp_path: Path) -> None:
    contents = {
        "twice.csv": ("user_id,name,time,a,a\n", "has more than one column 'a'"),
        "open.csv": (HEADER + MANY + 'u,buy,"2024-01-01,1\n', "row 250000 has a quote that is not closed"),
        "unnamed.csv": ("user_id,name,time,\n" + ROW + MANY, "column 4 has no name, but row 0 has '1'"),
        "broken.parquet": ("PAR1" + ROW, "is not a Parquet file"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    options = ["--input", "w/i", "--target", target.address, "--account", target.account]
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


def test_pandas_is_not_loaded_for_a_parquet_file(target: Target, tmp_path: Path) -> None:
    """Arrow loads it, if installed, to make a scalar: half a second, which many an import does not take."""
    (tmp_path / "pandas.py").write_text("print('pandas is loaded'); raise ImportError")
    columns = {
        "user_id": ["u", "v"],
        "name": ["buy", "buy"],
        "time": pa.array([1_700_000_000_000_000] * 2, pa.timestamp("us", "UTC")),
        "event_id": ["1", "2"],
        "amount": [1.5, None],
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "events.parquet")
    main = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {MAIN}"
    command = [sys.executable, "-c", main, "import", str(tmp_path / "events.parquet"), "--input", "w/i"]
    command += ["--target", target.address, "--account", target.account, "--event-id-column", "event_id"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "pandas is loaded" not in done.stdout
    assert target.events() == 2
