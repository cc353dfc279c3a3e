"""What the documents say is what the code does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from milepost.cli.service_process import ServiceProcess
from milepost.client import DEFAULT_TARGET
from service.config import Config, fields, flag_of, unit_of, variable_of
from service.not_built import METHODS_NOT_BUILT, OUTPUT_KINDS_NOT_BUILT

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def between(text: str, start: str) -> str:
    """The part from the comment that starts with `start` to the closing one."""
    _, _, after = text.partition(f"<!-- {start}")
    return after.partition("<!-- end -->")[0]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_readme_lists_what_is_not_built() -> None:
    listed = between(README, "not built")
    methods = set(re.findall(r"^- `(\w+\.\w+)`$", listed, re.MULTILINE))
    assert methods == {path.removeprefix("/milepost.v1.").replace("/", ".") for path in METHODS_NOT_BUILT}
    [kinds] = re.findall(r"^- outputs of the kinds (.*)$", listed, re.MULTILINE)
    assert re.findall(r"`(\w+)`", kinds) == sorted(OUTPUT_KINDS_NOT_BUILT)


def test_operations_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(--[a-z-]+)` \| (.*?) \| (.*) \|$", between(OPERATIONS, "settings"), re.MULTILINE
    )
    listed = {flag: (default, meaning) for flag, default, meaning in rows}
    assert len(listed) == len(rows)
    expected = {}
    for field in fields():
        default = "" if field.default is None else f"`{field.default}`"
        meaning = field.setting.description + unit_of(field.name)
        if field.choices:
            meaning += ": " + ", ".join(f"`{choice}`" for choice in field.choices)
        expected[flag_of(field.name)] = (default, meaning)
    assert listed == expected


def test_operations_names_the_variable_of_a_flag() -> None:
    assert f"`{flag_of('data_dir')}` and `{variable_of('data_dir')}`" in OPERATIONS


def test_the_client_s_default_address_is_the_service_s() -> None:
    assert f"localhost:{Config().port}" == DEFAULT_TARGET


@pytest.mark.parametrize("text", [README, OPERATIONS], ids=["README.md", "docs/operations.md"])
def test_linked_files_exist(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    base = ROOT if text is README else ROOT / "docs"
    assert [link for link in links if not (base / link).exists()] == []


def test_the_readme_s_first_journey_prints_what_it_says(tmp_path: Path) -> None:
    blocks = python_blocks(README)
    assert len(blocks) == 2
    printed = io.StringIO()
    with ServiceProcess(tmp_path / "store", flags=("--log-level", "warning")) as service:
        for block in blocks:
            code = block.replace(DEFAULT_TARGET, service.target)
            assert code != block
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == ["keen 1", "buyers 1", "others 1", "True False", "1"]
    assert "It prints `keen 1`, `buyers 1`, `others 1` and `True False`." in README
