"""Tokens that the service never handed out are refused at once, by every method that takes one."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
from google.protobuf.descriptor import MethodDescriptor

from engine.resources.paging import Pages
from service.convert.revisions import revision_token
from tests.harness import Refusal, Serving, refusal_of
from tests.spec.scenario import METHODS, STEPS, scenario

SEED = 13
FORGED_PER_CALL = 20
NESTED = 200_000
QUICKLY_S = 5.0
"""A wait for a revision takes the whole deadline of 60 s."""


def taking(field: str) -> set[str]:
    """The methods whose requests have that field."""
    return {name for name, method in METHODS.items() if field in method.input_type.fields_by_name}


def forged_page_tokens(rng: random.Random, genuine: list[str]) -> Iterator[str]:
    """Nested arrays, unsigned positions, other lists' tokens, and changes to those."""
    nested = b"\x91" * NESTED + b"\xc0"
    for body in (nested, b"\0" * 16 + nested, msgspec.msgpack.encode(["0" * 16, ["accounts/a"]]), b""):
        yield base64.urlsafe_b64encode(body + b"\0").rstrip(b"=").decode()
    yield "A" * 3_000_000
    for _ in range(FORGED_PER_CALL):
        token = rng.choice(genuine)
        place = rng.randrange(len(token))
        yield rng.choice(
            [
                token,
                token[:place] or "x",
                token + token,
                token[:place] + rng.choice("AQ-_=é\n\0") + token[place:],
                token[:place] + chr(ord(token[place]) ^ 1) + token[place + 1 :],
            ]
        )


def test_forged_page_tokens_are_refused_by_every_list(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    refusals: dict[str, list[Refusal]] = {}

    def forge(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        if "page_token" not in method.input_type.fields_by_name:
            return
        # Positions in the order of another question, signed by this store.
        assert isinstance(run.service, Serving)
        engine = run.service.application.engine
        pages = Pages(engine.signer, engine.limits.page_token_bytes_max)
        genuine = [pages.encode((name,), (name,)) for name in METHODS]
        for token in forged_page_tokens(rng, genuine):
            request = type(requests[0])()
            request.CopyFrom(requests[0])
            request.page_token = token
            refusals.setdefault(f"{method.containing_service.name}.{method.name}", []).append(
                refusal_of(call, request)
            )

    with scenario(tmp_path, forge) as run:
        for step in STEPS:
            assert run.perform(step) == []
    assert set(refusals) == taking("page_token")
    assert {
        (name, each.code, each.reason, *each.violations) for name, found in refusals.items() for each in found
    } == {(name, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", "page_token") for name in refusals}


def test_revisions_never_handed_out_are_refused_at_once(tmp_path: Path) -> None:
    refusals: dict[str, list[tuple[Refusal, float]]] = {}

    def forge(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        if "at_least" not in method.input_type.fields_by_name:
            return
        assert isinstance(run.service, Serving)
        engine = run.service.application.engine
        store, latest = engine.backend.store_id, engine.backend.revision()
        genuine = revision_token(store, latest, engine.signer)
        changed = genuine.replace(".", ".1", 1)
        ahead = revision_token(store, 1 << 60, engine.signer)
        for token in (changed, ahead, revision_token(store, 1 << 60, None), "9" * 3_000_000):
            request = type(requests[0])()
            request.CopyFrom(requests[0])
            request.at_least = token
            begun = time.monotonic()
            refusal = refusal_of(call, request)
            refusals.setdefault(f"{method.containing_service.name}.{method.name}", []).append(
                (refusal, time.monotonic() - begun)
            )

    with scenario(tmp_path, forge) as run:
        for step in STEPS:
            assert run.perform(step) == []
    assert set(refusals) == taking("at_least")
    every = [each for found in refusals.values() for each in found]
    assert {(refusal.code, refusal.reason, *refusal.violations) for refusal, _ in every} == {
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REVISION", "at_least")
    }
    assert max(elapsed_s for _, elapsed_s in every) < QUICKLY_S
