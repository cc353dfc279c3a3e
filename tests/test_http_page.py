"""The commands on the page on HTTP run, and answer what the page is about."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import CALL_TIMEOUT_S, serving

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "http.md").read_text(encoding="utf-8")
ADDRESS = "localhost:7480"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_page_on_http(tmp_path: Path) -> None:
    section = PAGE.partition("<!-- curl")[2].partition("<!-- end -->")[0]
    [script] = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    with serving(tmp_path / "store", http_port=0, access_log="none") as service:
        assert service.application.http_address is not None
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, service.application.http_address)],
            capture_output=True,
            text=True,
            check=True,
            timeout=CALL_TIMEOUT_S,
        )
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer for answer in answers if "code" in answer] == []
    assert len(answers) == script.count("\ncall ")
    estimate, check = answers[-2:]
    assert estimate["size"]["users"] == "1"
    assert check["member"] is True
