"""Limits of the transport. Each name ends with its unit. Limits on data are in `engine.limits`."""

from __future__ import annotations

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The largest request taken."""
RECEIVE_BYTES_MAX = 16 * 1024 * 1024
"""The largest message read from the wire. Larger than `MESSAGE_BYTES_MAX` so that a request that is too large
is answered with a reason; beyond this one the transport itself refuses with RESOURCE_EXHAUSTED."""

WORKER_THREADS = 16
IN_FLIGHT_MAX = 1_000
"""Unary calls accepted and not yet answered, running or waiting for a worker."""
STREAMS_MAX = 32
"""Streams of events, exports and reflection: each occupies a thread for as long as it lasts."""
WATCHERS_MAX = 64
"""WatchMembership streams."""
IMPORTS_MAX = 4
"""ImportEvents and ImportUsers calls at a time, of all accounts."""
CALL_S_MAX = 60.0
"""The longest a unary call works for, whatever its deadline."""
SLOW_CALL_MS = 1_000
STOP_GRACE_S = 10.0
RETRY_BUDGET_S = 900.0
"""How long a connection's output may fail before the connection is FAULTED."""

KEEPALIVE_TIME_MS = 60_000
"""An idle connection is probed this often, so that a dead peer's streams end."""
KEEPALIVE_TIMEOUT_MS = 20_000
CLIENT_PING_INTERVAL_MS_MIN = 10_000
"""Clients and proxies may ping this often, with or without calls."""

IMPORT_BATCH_BYTES_MAX = 64 * 1024 * 1024
"""The largest record batch of an import, and the most of a stream's dictionaries together, both unpacked.
Three batches are held at a time."""
IMPORT_BATCH_ROWS = 1 << 17
"""Maximum rows appended at a time. This and the next limit are fixed: by them a repeated import is
recognised."""
IMPORT_GATHERED_BYTES_MAX = 32 * 1024 * 1024
"""Small record batches are merged up to this size."""
IMPORT_REQUEST_ID_BYTES_MAX = 200
"""Shorter than other request ids, because the index of each batch is appended."""
IMPORT_REJECTIONS_MAX = 1_000
IMPORT_REFUSED_ROWS_MAX = 1 << 20
"""Maximum rejected rows in a response. They take 3 MiB, below the 4 MiB that clients accept."""
