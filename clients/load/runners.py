"""Runs locust, h2load or ghz as a child process, and reads what it measured."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor

from clients.load import locust_settings
from clients.load.profile import Profile
from milepost.v1 import audience_service_pb2, ingest_service_pb2

ROOT = Path(__file__).resolve().parents[2]
MICROSECONDS_A_MILLISECOND = 1_000
NANOSECONDS_A_MILLISECOND = 1_000_000
STOP_SECONDS = 30.0
SECONDS_MIN = 0.001


class RunFailed(Exception):
    """A harness that is not installed, or ended with an error."""


@dataclass(frozen=True)
class Row:
    """What was measured of one kind of call."""

    call: str
    calls: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    per_second: float


def run_locust(profile: Profile, target: str, account: str, calls: int | None = None) -> list[Row]:
    """Runs a profile against a service, until its time is over or `calls` were made. Raises RunFailed."""
    with tempfile.TemporaryDirectory() as scratch:
        used = Path(scratch) / "profile.yaml"
        used.write_text(yaml.safe_dump(asdict(profile)), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(Path(__file__).with_name("locustfile.py"))),
            *("--headless", "--json", "--host", target, "--loglevel", "ERROR"),
            *("--users", str(profile.users), "--spawn-rate", str(profile.users)),
            *("--run-time", f"{math.ceil(profile.seconds)}s"),
        ]
        variables = os.environ | {
            locust_settings.PROFILE_VARIABLE: str(used),
            locust_settings.ACCOUNT_VARIABLE: account,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        if calls is not None:
            variables[locust_settings.CALLS_VARIABLE] = str(calls)
        # Status 1 says that some calls failed: the table does too.
        printed = _run(command, profile.seconds, statuses=(0, 1), environment=variables)
    found = json.loads(printed)
    if not found:
        raise RunFailed("locust made no call")
    begun = min(each["start_time"] for each in found)
    seconds = max(each["last_request_timestamp"] for each in found) - begun
    return [_locust_row(each, max(seconds, SECONDS_MIN)) for each in found]


def _locust_row(found: dict[str, Any], seconds: float) -> Row:
    counts = {float(micros): count for micros, count in found["response_times"].items()}
    times = [micros / MICROSECONDS_A_MILLISECOND for micros in sorted(counts) for _ in range(counts[micros])]
    return _row(found["name"], times, found["num_failures"], seconds)


@dataclass(frozen=True)
class OneCall:
    """A file of ghz: one call, made again and again. h2load takes what it knows of it."""

    path: Path
    method: MethodDescriptor
    request: Any
    concurrency: int
    connections: int
    seconds: int

    @property
    def method_path(self) -> str:
        """The method as gRPC names it in HTTP."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


def read_call(path: Path) -> OneCall:
    """A file of ghz. Raises RunFailed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFailed(f"{path}: is not JSON: {error}") from error
    needed = ("call", "data", "duration", "concurrency", "connections")
    if missing := [key for key in needed if not isinstance(found, dict) or key not in found]:
        raise RunFailed(f"{path}: the key {missing[0]!r} is missing; a file of ghz has {', '.join(needed)}")
    service, _, name = found["call"].partition("/")
    for file in (audience_service_pb2.DESCRIPTOR, ingest_service_pb2.DESCRIPTOR):
        described = file.services_by_name.get(service.removeprefix("milepost.v1."))
        if described is not None and name in described.methods_by_name:
            method = described.methods_by_name[name]
            request = message_factory.GetMessageClass(method.input_type)()
            json_format.ParseDict(found["data"], request)
            seconds = int(found["duration"].removesuffix("s"))
            return OneCall(path, method, request, found["concurrency"], found["connections"], seconds)
    raise RunFailed(f"{path}: there is no call {found['call']}")


def run_h2load(call: OneCall, target: str, seconds: float | None) -> list[Row]:
    """Makes one call again and again from one process of h2load.

    h2load sees HTTP statuses only, so the call is made once through gRPC first. Raises RunFailed.
    """
    _require_answer(call, target)
    length = max(1, round(seconds or call.seconds))
    with tempfile.TemporaryDirectory() as scratch:
        body, log = Path(scratch) / "body", Path(scratch) / "log"
        message = call.request.SerializeToString()
        # A gRPC message: not compressed, its length, itself.
        body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        streams = max(1, call.concurrency // call.connections)
        command = [
            _program("h2load"),
            *("--clients", str(call.connections), "--max-concurrent-streams", str(streams)),
            *("--duration", str(length), "--data", str(body), "--log-file", str(log)),
            *("--header", "content-type: application/grpc", "--header", "te: trailers"),
            f"http://{target}{call.method_path}",
        ]
        printed = _run(command, length, statuses=(0,))
        rows = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    times = sorted(int(micros) / MICROSECONDS_A_MILLISECOND for _, status, micros in rows if status == "200")
    if not times:
        raise RunFailed(f"h2load made no call:\n{printed}")
    return [_row(call.method.name, times, len(rows) - len(times), length, calls=len(rows))]


def run_ghz(call: OneCall, target: str, seconds: float | None) -> list[Row]:
    """Makes one call again and again with ghz, by server reflection. Raises RunFailed."""
    length = seconds or call.seconds
    options = ("--config", str(call.path), "--duration", f"{length:g}s", "--format", "json")
    found = json.loads(_run([_program("ghz"), *options, target], length, statuses=(0,)))
    at = {
        each["percentage"]: each["latency"] / NANOSECONDS_A_MILLISECOND
        for each in found["latencyDistribution"]
    }
    succeeded = found.get("statusCodeDistribution", {}).get("OK", 0)
    errors = found["count"] - succeeded
    return [Row(call.method.name, found["count"], errors, at[50], at[90], at[99], found["rps"])]


def _require_answer(call: OneCall, target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        method: Any = channel.unary_unary(
            call.method_path, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            method(call.request.SerializeToString(), timeout=STOP_SECONDS)
        except grpc.RpcError as error:
            raise RunFailed(f"{call.method_path}: {error.code().name}: {error.details()}") from error


def _row(call: str, times: Sequence[float], errors: int, seconds: float, calls: int | None = None) -> Row:
    """From sorted times in milliseconds: of all calls, unless their number says otherwise."""

    def quantile(share: float) -> float:
        return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)]

    calls = len(times) if calls is None else calls
    return Row(call, calls, errors, quantile(0.5), quantile(0.9), quantile(0.99), calls / seconds)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RunFailed(f"{name} is not installed")
    return found


def _run(
    command: Sequence[str],
    seconds: float,
    *,
    statuses: Sequence[int],
    environment: dict[str, str] | None = None,
) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 2 * STOP_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{command[0]} did not end") from error
    if done.returncode not in statuses or re.search("No module named locust", done.stderr):
        raise RunFailed(f"{command[0]} ended with status {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout
