"""The commands of the section on security, run in order on a new store."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.resources.secret_keys import SecretKeys
from service.auth.methods import RULES
from tests.clients.terminal import PROGRAM, terminal
from tests.harness import serving

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## Security\n")[2].partition("\n## ")[0]
LINES = [
    line.partition("#")[0].strip()
    for line in SECTION.partition("```sh\n")[2].partition("```")[0].splitlines()
]


def test_the_commands_of_the_section_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, export, serve, *others = LINES
    assert serve == f"{first.replace(' init ', ' serve ')} &"
    assert export == "export MILEPOST_API_KEY=mpk_…"
    assert len(others) > 6
    monkeypatch.chdir(tmp_path)
    with terminal("localhost:1") as screen:
        made = screen.run(first)
    assert made.exit_code == 0, made.output
    [secret] = re.findall(r"^secret +(mpk_\S+)$", made.stdout, re.MULTILINE)
    with serving(Path("store"), access_log="none") as service, terminal(service.address) as screen:
        refused = screen.run(f"{PROGRAM}account list")
        assert "UNAUTHENTICATED" in refused.stderr
        monkeypatch.setenv("MILEPOST_API_KEY", secret)
        for line in others:
            result = screen.run(line)
            assert result.exit_code == 0, f"{line}: {result.output}"


def test_the_command_for_a_key_of_secrets_makes_one(tmp_path: Path) -> None:
    [_, *others] = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    [command] = [block for block in others if "secrets.key" in block]
    interpreter = f"{sys.executable} -c"
    assert command.startswith("umask 077\npython3 -c ")
    subprocess.run(["sh", "-c", command.replace("python3 -c", interpreter)], cwd=tmp_path, check=True)
    keys = SecretKeys(tmp_path / "secrets.key", may_create=False)
    assert keys.decrypt(keys.encrypt({"secret": "x"})) == {"secret": "x"}
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600


def test_the_section_explains_every_scope_that_a_method_needs() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE))
    assert rows == {rule.scope.value for rule in RULES.values() if rule.scope is not None}
