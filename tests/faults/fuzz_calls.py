"""Calls of every method with arbitrary requests, keys, deadlines and cancellations, against a real process.

    python -m tests.faults.fuzz_calls --calls 100000 --seed 7

The service requires API keys and has the resources of `tests/spec/methods.yaml`. Requests are those of that
scenario, those with fields changed, random messages, damaged bytes, and bytes that are no message.
No call may end UNKNOWN or INTERNAL, and each refusal by the service must carry an ErrorInfo. After every
tenth of the calls a line tells memory, threads and descriptors of the service. Prints each fault with what
was sent, and exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from milepost.cli.service_process import ServiceProcess
from milepost.v1 import account_pb2
from milepost.v1 import account_service_pb2 as pb
from tests.bench.process import cpu_seconds, status_bytes
from tests.faults.random_messages import RandomMessages
from tests.harness import Stubs, bearer, read_refusal
from tests.spec.scenario import METHODS, OPERATOR, STEPS, Run

CALLS = 2_000
CALLERS = 4
PARTS = 10
DEADLINE_S = 20.0
SLOW_S = 2.0
SHORT_DEADLINE_S = 0.02
SHORT_DEADLINE_PERCENT = 4
CANCELLED_PERCENT = 3
ANSWERS_MAX = 3
"""Messages read of a stream before it is cancelled."""
STREAM_S = 0.5
"""Deadline of a stream of answers: some never end."""
REQUEST_BYTES_MAX = 3 << 20
SHOWN_BYTES_MAX = 2_000
FLAGS = (
    *("--log-level", "error", "--access-log", "none", "--refresh-interval-ms", "50"),
    *("--key-calls-per-second-max", "100000"),
)
NEVER = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
BY_CALLER = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What a call ends with at its caller, whatever the service says."""
GROWTH_MAX = 1.25
"""Of memory, from the middle of a campaign to its end. Callers write data all the time."""


@dataclass
class Fault:
    """A call that did not end as it must."""

    method: str
    what: str
    sent: str


@dataclass
class Tally:
    """How calls ended."""

    codes: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    slow: Counter[str] = field(default_factory=Counter)
    """Calls that took longer than `SLOW_S`, by method and code."""
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, method: str, code: str, seconds: float, fault: Fault | None) -> None:
        """Counts a call."""
        with self.lock:
            self.codes[code] += 1
            if seconds > SLOW_S:
                self.slow[f"{method} {code}"] += 1
            if code == grpc.StatusCode.OK.name:
                self.methods[method] += 1
            if fault is not None:
                self.faults.append(fault)


@dataclass(frozen=True)
class Figures:
    """Of the service, after some calls."""

    memory_bytes: int
    threads: int
    descriptors: int
    cpu_s: float

    @classmethod
    def of(cls, pid: int) -> Figures:
        """Those of a process now."""
        return cls(
            status_bytes(pid, "RssAnon"),
            len(list(Path(f"/proc/{pid}/task").iterdir())),
            len(list(Path(f"/proc/{pid}/fd").iterdir())),
            cpu_seconds(pid),
        )


class Keys:
    """Secrets of several powers, and what is no secret."""

    def __init__(self, stubs: Stubs, operator: str) -> None:
        # No request names these keys, so none of them is changed or deleted.
        self.operator = operator
        self.operator = self._create(stubs, "", "fuzz", account_pb2.SCOPE_OPERATOR)
        by_scope = [
            self._create(stubs, "accounts/a", f"fuzz-{scope}", scope)
            for scope in (account_pb2.SCOPE_READ, account_pb2.SCOPE_INGEST, account_pb2.SCOPE_ADMIN)
        ]
        foreign = self._create(stubs, "accounts/b", "fuzz", account_pb2.SCOPE_ADMIN)
        weak = (*by_scope, foreign, "wrong", "")
        self._all = [bearer(self.operator)] * 14 + [bearer(secret) for secret in weak]
        self._all += [(), (("authorization", "Basic x"),)]

    def draw(self, source: random.Random) -> tuple[tuple[str, str], ...]:
        """The metadata of a call: an operator's key most times."""
        return source.choice(self._all)

    def _create(self, stubs: Stubs, parent: str, key: str, scope: account_pb2.Scope.ValueType) -> str:
        request = pb.CreateApiKeyRequest(
            parent=parent, api_key_id=key, api_key=account_pb2.ApiKey(scopes=[scope])
        )
        answer: Any = stubs.accounts.CreateApiKey(request, metadata=bearer(self.operator))
        return str(answer.secret)


class Fuzzer:
    """One caller. Its requests depend on the seed and on nothing that the service answers."""

    def __init__(self, stubs: Stubs, keys: Keys, tally: Tally, seed: str) -> None:
        self._stubs, self._keys, self._tally = stubs, keys, tally
        self._source = random.Random(seed)
        self._messages = RandomMessages(self._source, _texts_of_the_scenario())
        self._names = sorted(METHODS)

    def call(self) -> None:
        """Makes one call and judges how it ends."""
        name = self._source.choice(self._names)
        method = METHODS[name]
        count = self._source.choice((0, 1, 1, 2)) if method.client_streaming else 1
        sent = [self._request(name, method) for _ in range(count)]
        began = time.monotonic()
        try:
            self._made(method, sent)
            self._tally.add(name, grpc.StatusCode.OK.name, time.monotonic() - began, None)
        except grpc.RpcError as error:
            what = fault_of(error)
            shown = b" | ".join(sent)[:SHOWN_BYTES_MAX].hex()
            code = read_refusal(error).code.name
            fault = Fault(name, what, shown) if what else None
            self._tally.add(name, code, time.monotonic() - began, fault)

    def _request(self, name: str, method: MethodDescriptor) -> bytes:
        kind = message_factory.GetMessageClass(method.input_type)
        message: Message = kind()
        how = self._source.randrange(10)
        known = _REQUESTS.get(name)
        if known and how < 7:
            json_format.ParseDict(self._source.choice(known), message)
            for _ in range(how // 2):
                self._messages.change(message)
        else:
            self._messages.fill(message)
        data = message.SerializeToString()
        if how == 9:
            data = self._messages.damage(data)
        return data[:REQUEST_BYTES_MAX]

    def _made(self, method: MethodDescriptor, sent: list[bytes]) -> None:
        source = self._source
        shape = f"{_form(method.client_streaming)}_{_form(method.server_streaming)}"
        call = getattr(self._stubs.channel, shape)(f"/{method.containing_service.full_name}/{method.name}")
        timeout = STREAM_S if method.server_streaming else DEADLINE_S
        if source.randrange(100) < SHORT_DEADLINE_PERCENT:
            timeout = SHORT_DEADLINE_S
        request: Any = iter(sent) if method.client_streaming else sent[0]
        arguments = {"timeout": timeout, "metadata": self._keys.draw(source)}
        if method.server_streaming:
            answers = call(request, **arguments)
            for _, _ in zip(range(ANSWERS_MAX), answers, strict=False):
                pass
            answers.cancel()
        elif source.randrange(100) < CANCELLED_PERCENT:
            running = call.future(request, **arguments)
            time.sleep(source.uniform(0, 0.01))
            running.cancel()
        else:
            call(request, **arguments)


def fault_of(error: grpc.RpcError) -> str:
    """What is wrong with the status of a call; "" when nothing is."""
    refusal = read_refusal(error)
    if refusal.code in NEVER:
        return f"ended {refusal.code.name}: {refusal.message}"
    if refusal.code not in BY_CALLER and not refusal.reason:
        return f"{refusal.code.name} without an ErrorInfo: {refusal.message}"
    return ""


_REQUESTS: dict[str, list[dict[str, Any]]] = {}
for _step in STEPS:
    for _sent in _step.get("requests", [_step.get("request")]):
        if "arrow" not in _sent and "$" not in str(_sent):
            _REQUESTS.setdefault(_step["method"], []).append(_sent)


def _texts_of_the_scenario() -> list[str]:
    def within(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for value in tree.values():
                yield from within(value)
        elif isinstance(tree, list):
            for value in tree:
                yield from within(value)
        elif isinstance(tree, str):
            yield tree

    return sorted({text for step in STEPS for text in within(step.get("request"))})


def _form(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def prepare(stubs: Stubs) -> Keys:
    """Creates the resources of the scenario, and keys of several powers."""
    run = Run(stubs)
    for step in STEPS:
        if not step["method"].partition(".")[2].startswith("Delete"):
            run.perform({**step, "eventually": False})
    return Keys(stubs, run.saved(OPERATOR))


def campaign(calls: int, seed: int, directory: Path) -> tuple[Tally, list[Figures]]:
    """Makes the calls; how they ended, and the service's figures after each part of them."""
    flags = (*FLAGS, "--output-dir", str(directory / "outputs"), "--backup-dir", str(directory / "backups"))
    tally, figures = Tally(), []
    with ServiceProcess(directory / "store", flags=flags) as service:
        stubs = Stubs(service.target)
        keys = prepare(stubs)
        fuzzers = [Fuzzer(stubs, keys, tally, f"{seed} {number}") for number in range(CALLERS)]
        began = time.monotonic()
        for part in range(PARTS):
            _call_all(fuzzers, calls // PARTS // CALLERS)
            figures.append(Figures.of(service.pid))
            if not part:
                print(f"{'calls':>9} {'MiB':>6} {'threads':>7} {'files':>6} {'CPU s':>7} {'s':>6}  faults")
            last = figures[-1]
            print(
                f"{sum(tally.codes.values()):9,} {last.memory_bytes >> 20:6,} {last.threads:7}"
                f" {last.descriptors:6} {last.cpu_s:7.1f} {time.monotonic() - began:6.0f}"
                f"  {len(tally.faults)}",
                flush=True,
            )
        stubs.close()
    return tally, figures


def _call_all(fuzzers: Sequence[Fuzzer], calls: int) -> None:
    def run(fuzzer: Fuzzer) -> None:
        for _ in range(calls):
            fuzzer.call()

    threads = [threading.Thread(target=run, args=(fuzzer,)) for fuzzer in fuzzers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def grew(figures: Sequence[Figures]) -> bool:
    """Whether the service's memory still rose in the second half."""
    half = [each.memory_bytes for each in figures[len(figures) // 2 :]]
    return half[-1] > GROWTH_MAX * statistics.median(half[: len(half) // 2 + 1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.fuzz_calls", description=__doc__.split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS, help="how many calls (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"{options.calls:,} calls, {CALLERS} at a time, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="milepost-fuzz-", ignore_cleanup_errors=True) as directory:
        tally, figures = campaign(options.calls, seed, Path(directory))
    for code, count in tally.codes.most_common():
        print(f"  {code:20} {count:9,}")
    for call, count in tally.slow.most_common():
        print(f"  longer than {SLOW_S:g} s: {count} x {call}")
    print(f"methods that answered: {len(tally.methods)} of {len(METHODS)}")
    for kind, count in Counter((fault.method, fault.what) for fault in tally.faults).most_common(40):
        first = next(fault for fault in tally.faults if (fault.method, fault.what) == kind)
        print(f"{count} x {kind[0]}: {kind[1]}\n    sent {first.sent[:600]}")
    if grew(figures):
        print("memory still grew in the second half")
    return 1 if tally.faults or grew(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
