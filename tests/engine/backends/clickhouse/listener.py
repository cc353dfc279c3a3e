"""Runs a ClickHouse server in this process: `listener.py LIBRARY DIRECTORY PORT [OPTION…]`.

The library has the program clickhouse-local as a function. A statement makes it listen for HTTP, and one that
sleeps keeps it running. It has no interserver port, so its tables cannot replicate by themselves.
"""

from __future__ import annotations

import ctypes
import signal
import sys

_END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of <sys/prctl.h>: tests that are killed leave no server behind."""

_RUN = (
    "SYSTEM START LISTEN HTTP;"
    " SELECT sleepEachRow(1) FROM numbers(1000000000)"
    " SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0 FORMAT Null"
)


class Result(ctypes.Structure):
    """What the function returns: `local_result_v2` of chdb.h."""

    _fields_ = (
        ("buf", ctypes.c_char_p),
        ("len", ctypes.c_size_t),
        ("vec", ctypes.c_void_p),
        ("elapsed", ctypes.c_double),
        ("rows_read", ctypes.c_uint64),
        ("bytes_read", ctypes.c_uint64),
        ("error_message", ctypes.c_char_p),
    )


def main(library: str, directory: str, port: str, *options: str) -> None:
    """Serves until the process ends, or the one that started it. `options` are more of the program's."""
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    run = ctypes.CDLL(library).query_stable_v2
    run.restype = ctypes.POINTER(Result)
    arguments = [
        *("clickhouse", f"--path={directory}", "--listen_host=127.0.0.1", f"--http_port={port}"),
        *options,
        f"--query={_RUN}",
    ]
    encoded = (ctypes.c_char_p * (len(arguments) + 1))(*map(str.encode, arguments), None)
    result = run(len(arguments), encoded)
    sys.exit((result.contents.error_message or b"ended").decode() if result else "ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
