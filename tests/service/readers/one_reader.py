"""The routes of a reader on a server in this process, over parts that stand for its memory and its writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc

from engine.limits import DEFAULT_LIMITS
from engine.resources.paging import Pages
from engine.resources.signing import Signer
from service.access_log import CallLog
from service.config import Config
from service.convert.revisions import Revisions
from service.deaf_callers import DeafCallers
from service.health import Health
from service.readers.answers import Answers
from service.readers.routes import ReaderPools, Routes
from service.reading import RequestReader
from service.stopping import Stopping
from service.telemetry.line_limit import LineLimit
from tests.harness import Stubs


class Parts(NamedTuple):
    """What a reader is made of. `served` and `keys` are its memory, `writer` the way to the writer."""

    served: Any
    keys: Any
    writer: Any
    deaf_after_s: float = 60.0


class Running(NamedTuple):
    """A reader that runs."""

    stubs: Stubs
    answers: Answers
    stopping: Stopping


@contextmanager
def one_reader(parts: Parts) -> Iterator[Running]:
    """A server with the routes of a reader."""
    requests, stopping, signer = RequestReader(1_000, DEFAULT_LIMITS), Stopping(), Signer(b"secret")
    log, config = CallLog("problems", 60_000, LineLimit(100)), Config(exports_max=1, readers=1)
    revisions, pages = Revisions("store", signer, lambda: 0), Pages(signer, 1_000)
    answers = Answers(parts.served, revisions, parts.keys, requests, pages, log, config, stopping)
    threads, deaf_callers = ReaderPools(config), DeafCallers(parts.deaf_after_s)
    routes = Routes(threads, parts.keys, parts.writer, answers, Health(), stopping, requests, deaf_callers)
    server = grpc.server(threads.unary, interceptors=[routes])
    routes.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    deaf_callers.start()
    server.start()
    stubs = Stubs(f"127.0.0.1:{port}")
    try:
        yield Running(stubs, answers, stopping)
    finally:
        stubs.close()
        server.stop(None).wait()
        deaf_callers.stop()
        threads.shutdown()
