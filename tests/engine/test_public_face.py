"""The public names of `engine`."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import engine
from engine.backends.local.backend import LocalBackend


def test_public_names_are_complete_and_unique() -> None:
    assert len(set(engine.__all__)) == len(engine.__all__)
    public = {
        name
        for name, value in vars(engine).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public == set(engine.__all__)


def test_errors_are_usable_through_the_public_face(tmp_path: Path) -> None:
    opened = engine.Engine(LocalBackend.open(tmp_path / "store"))
    try:
        with pytest.raises(engine.NotFound) as refused:
            opened.accounts.get_account("accounts/none")
    finally:
        opened.close()
    assert isinstance(refused.value, engine.MilepostError)
    assert refused.value.reason == "RESOURCE_NOT_FOUND"
