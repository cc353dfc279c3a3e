"""The synchronous client is generated from the asyncio one, and the check notices when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import generate_client

SOURCE = '''
from milepost.aio.base import AsyncClientBase
from milepost._concurrency import AsyncItems, async_iterate, async_sleep

class AsyncThing(AsyncClientBase):
    async def first(self, rows: AsyncItems[int]) -> int:
        """Async in a description stays."""
        await async_sleep(1)
        async for row in async_iterate(rows):
            return (await self.get(row)).value
        return max((await self.get(0), 1))
'''
GENERATED = '''
from milepost._concurrency import Items, iterate, sleep
from milepost.client.base import ClientBase


class Thing(ClientBase):
    def first(self, rows: Items[int]) -> int:
        """Async in a description stays."""
        sleep(1)
        for row in iterate(rows):
            return self.get(row).value
        return max((self.get(0), 1))
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("aio", "client"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("by_hand = True\n")
    (tmp_path / "aio" / "thing.py").write_text(SOURCE)
    monkeypatch.setattr(generate_client, "PACKAGE", tmp_path)
    return tmp_path


def test_the_synchronous_form_of_a_module(package: Path) -> None:
    assert generate_client.main([]) == 0
    written = (package / "client" / "thing.py").read_text()
    header, _, code = written.partition("\n")
    assert header == "# Generated from milepost/aio/thing.py: edit that file, then run `make client`."
    assert code.split() == GENERATED.split()
    assert (package / "client" / "__init__.py").read_text() == "by_hand = True\n"


def test_the_check_names_what_differs(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_client.main([])
    assert generate_client.main(["--check"]) == 0
    (package / "client" / "thing.py").write_text("edited = True\n")
    (package / "client" / "gone.py").write_text("left = True\n")
    capsys.readouterr()
    assert generate_client.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "differs from milepost/aio: milepost/client/gone.py",
        "differs from milepost/aio: milepost/client/thing.py",
        "edit milepost/aio, run `make client`, and commit both packages",
    ]
    assert generate_client.main([]) == 0
    assert not (package / "client" / "gone.py").exists()
