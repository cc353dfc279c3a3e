"""A service killed during an import and restarted, and the import repeated.

1. A file is imported; when half of its rows have gone out the service is killed with SIGKILL. 2. The service
starts again on the same store: every acknowledged segment is there. 3. The import is run again. It continues
after the acknowledged rows, and repeats the segment that was in flight at the kill, of which the store may
have a part. 4. Every event is stored once, as after an undisturbed import.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.errors import MilepostError
from milepost.importing import Settings, import_file
from milepost.importing.run import Watcher
from milepost.v1.admin_service_pb2 import GetServerInfoRequest

T0 = 1_700_000_000_000_000
SEGMENT_ROWS = 1 << 18
"""Two batches of the service."""
ROWS = 3 * SEGMENT_ROWS + 1_000
NAMES = ("view", "buy", "cart")
SETTINGS = Settings(input="w/i")


def write_file(path: Path) -> None:
    """Rows 0, 1, 2, …: row r is of user r mod 50,000, of name r mod 3, r seconds after the start."""
    numbers = np.arange(ROWS)
    columns = {
        "user_id": pa.array(numbers % 50_000).cast(pa.string()),
        "name": pa.array(NAMES).take(pa.array(numbers % len(NAMES))),
        "time": pa.array(T0 + numbers * 1_000_000, pa.timestamp("us", "UTC")),
        "number": pa.array(numbers % 10, pa.int64()),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)


def test_repeated_import_after_a_kill_counts_every_event_once(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "events.parquet"
    write_file(file)
    # 1. Killed in the middle of the second segment.
    with ServiceProcess(store) as service, Client(service.target, account="a") as client:
        client.ensure_account()
        client.ensure_input("w", "i")
        out = 0

        def kill_in_time(rows: int) -> None:
            nonlocal out
            out += rows
            if out - rows < ROWS // 2 <= out:
                service.kill()

        with pytest.raises(MilepostError):
            import_file(client, file, SETTINGS, segment_rows=SEGMENT_ROWS, watcher=Watcher(sent=kill_in_time))
    [progress] = json.loads((tmp_path / "events.parquet.milepost-import.json").read_text())["imports"]
    assert (progress["segments"], progress["rows"]) == (1, SEGMENT_ROWS)
    # 2. What was acknowledged is there, whole batches of the rest perhaps.
    with ServiceProcess(store) as service, Client(service.target, account="a") as client:
        kept = client.admin.GetServerInfo(GetServerInfoRequest()).events
        assert kept in (SEGMENT_ROWS, SEGMENT_ROWS + SEGMENT_ROWS // 2, 2 * SEGMENT_ROWS)
        # 3. The same command again.
        imported = import_file(client, file, SETTINGS, segment_rows=SEGMENT_ROWS)
        assert (imported.rows, imported.resumed_rows) == (ROWS, SEGMENT_ROWS)
        assert (imported.accepted, imported.duplicates, imported.rejected) == (ROWS, 0, 0)
        # 4. Once each.
        info = client.admin.GetServerInfo(GetServerInfoRequest())
        assert (info.events, info.users) == (ROWS, 50_000)
        counted = {each.name: (each.events, each.users) for each in client.list_event_names()}
        expected = {name: (len(range(number, ROWS, len(NAMES))), 50_000) for number, name in enumerate(NAMES)}
        assert counted == expected
