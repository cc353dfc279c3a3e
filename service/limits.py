"""Limits of the transport. Each name ends with its unit. Limits on data are in `engine.limits`."""

from __future__ import annotations

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Maximum size of a request."""
LARGE_MESSAGE_BYTES = 256 * 1024
"""From this size on, messages are parsed one at a time: each takes milliseconds, in which the interpreter
runs nothing else.
"""
RECEIVE_BYTES_MAX = 16 * 1024 * 1024
"""Maximum size of a message on the wire. Larger than `MESSAGE_BYTES_MAX`, so that an oversized request gets
an answer with a reason; beyond this limit the transport itself refuses with RESOURCE_EXHAUSTED.
"""

METHOD_SHOWN_CHARACTERS_MAX = 200
"""How much of the name of an unknown method its refusal repeats."""

WORKER_THREADS = 16
IN_FLIGHT_MAX = 1_000
"""Maximum unary calls in flight, running or waiting for a worker."""
STREAMS_MAX = 32
"""StreamEvents calls. A stream occupies a thread, unless it is a watcher's."""
EXPORTS_MAX = 16
"""ExportMembers calls."""
WATCHERS_MAX = 5_000
"""WatchMembership streams. They take no thread while they wait."""
IMPORTS_MAX = 4
"""Maximum concurrent ImportEvents and ImportUsers calls, over all accounts."""
JOBS_MAX = 4
"""CreateBackup, VerifyStore and GetStoreStats calls: work of minutes."""
READERS_MAX = 64
READER_THREADS = 64
"""Threads of a reader for calls with one answer: most of them wait for the writer."""
CONNECTION_CALLS_MAX = 1_000
"""Calls at a time on one connection. gRPC refuses more before they cost the service anything. With 100 it
refuses most of what callers open and reset without end, but also some calls of a client with more than 50.
"""
CONNECTION_CALLS_MOST = (1 << 31) - 1
"""The largest number that gRPC takes."""
PROBES_MAX = 256
"""Health checks and reflection calls, running or waiting for one of their threads."""
MESSAGE_S_MAX = 30.0
"""How long a call with one request waits for it. A slow caller needs that long for a large one."""
HEAD_S_MAX = 10.0
"""How long the headers of a request over HTTP may take."""
STREAM_IDLE_S = 120.0
"""How long a stream of events or an import waits for the caller's next request."""
PROBE_IDLE_S = 5.0
"""How long a reflection stream waits for the caller's next request."""
CALL_S_MAX = 60.0
"""Maximum duration of a unary call, whatever its deadline."""
SLOW_CALL_MS = 1_000
ACCESS_LOG_LINES_MAX = 10
"""Maximum lines of the access log for calls that are alike, in one period."""
STOP_GRACE_S = 10.0
KEY_CALLS_PER_SECOND_MAX = 10_000
KEY_IN_FLIGHT_MAX = 500
"""Running calls of an API key, streams included."""
RETRY_BUDGET_S = 900.0
"""Time an output may keep failing before its connection becomes FAULTED."""
DELIVERY_THREADS = 8
DELIVERY_THREADS_MAX = 1_000
"""They are all made at the start."""
DELIVERY_ATTEMPT_S_MAX = 30.0
"""How long one attempt to deliver a batch may take."""
REFUSED_BYTES_MAX = 256 * 1024 * 1024
"""Size at which a connection's file of refused events is full, and the connection FAULTED."""
OUTPUT_TEST_S_MAX = 10.0
"""How long a test of an output may take."""
OUTPUT_TESTS_MAX = 4
"""Tests of outputs at a time, one for each account: each holds a worker thread."""
OPEN_OUTPUTS_MAX = 128
"""Files and connections that outputs keep open between batches."""

KEEPALIVE_TIME_MS = 60_000
"""Interval between probes of an idle connection, so that a dead peer's streams end."""
KEEPALIVE_TIMEOUT_MS = 20_000
CLIENT_PING_INTERVAL_MS_MIN = 10_000
"""Minimum interval between pings of clients and proxies, with or without calls."""

IMPORT_BATCH_BYTES_MAX = 64 * 1024 * 1024
"""Maximum unpacked size of an import's record batch, and of a stream's dictionaries together. Three batches
are held in memory at a time.
"""
IMPORT_BATCH_ROWS = 1 << 17
"""Maximum rows per append. This limit and the next one never change, because repeated imports are recognised
by the resulting batches.
"""
IMPORT_GATHERED_BYTES_MAX = 32 * 1024 * 1024
"""Small record batches are merged up to this size."""
IMPORT_REQUEST_ID_BYTES_MAX = 200
"""Maximum length of an import's request id: shorter than others, because the index of each batch is appended.
"""
IMPORT_REJECTIONS_MAX = 1_000
IMPORT_REASONS_MAX = 1_000
"""Different faults that an import describes; further rows are listed by reason and field alone."""
IMPORT_REFUSED_ROWS_MAX = 1 << 20
"""Maximum rejected rows in a response. They take 3 MiB, below the 4 MiB that clients accept."""
