"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.backends.local.storage.dedupe import REQUEST_HORIZON_HOURS
from milepost import journeys
from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.client import DEFAULT_TARGET
from milepost.importing import ndjson, progress
from milepost.importing.source import SEGMENT_ROWS
from service.config import Config, fields, flag_of, variable_of
from service.convert.criteria import criterion_of
from service.limits import IMPORT_BATCH_ROWS
from service.not_built import METHODS_NOT_BUILT, OUTPUT_KINDS_NOT_BUILT

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
IMPORT = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
JOURNEYS = (ROOT / "docs" / "journeys.md").read_text(encoding="utf-8")


def between(text: str, start: str) -> str:
    """The part from the comment that starts with `start` to the closing one."""
    _, _, after = text.partition(f"<!-- {start}")
    return after.partition("<!-- end -->")[0]


def blocks_of(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[str]:
    return blocks_of("python", text)


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
        meaning = field.setting.description
        if field.choices:
            meaning += " One of " + ", ".join(f"`{choice}`" for choice in field.choices) + "."
        expected[flag_of(field.name)] = (default, meaning)
    assert listed == expected


UNITS = {
    "_ms": "in milliseconds",
    "_s": "in seconds",
    "_bytes": "bytes",
    "_days": "Days",
    "_characters": "characters",
}


def test_a_setting_s_description_is_sentences_with_the_unit_of_its_name() -> None:
    for field in fields():
        description = field.setting.description
        assert description[0].isupper(), field.name
        assert description.endswith("."), field.name
        for suffix, unit in UNITS.items():
            if field.name.removesuffix("_max").endswith(suffix):
                assert unit in description, field.name


def test_operations_names_the_variable_of_a_flag() -> None:
    assert f"`{flag_of('data_dir')}` and `{variable_of('data_dir')}`" in OPERATIONS


def test_the_client_s_default_address_is_the_service_s() -> None:
    assert f"localhost:{Config().port}" == DEFAULT_TARGET


@pytest.mark.parametrize(
    "text",
    [README, OPERATIONS, JOURNEYS, IMPORT],
    ids=["README.md", "docs/operations.md", "docs/journeys.md", "docs/import.md"],
)
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


def test_every_test_that_the_page_on_journeys_names_exists() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([\w/]+\.py)::(\w+)` \|$", between(JOURNEYS, "tests"), re.MULTILINE)
    assert len(rows) == len(between(JOURNEYS, "tests").strip().splitlines()) - 3
    for file, name in rows:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no test {name}"


def test_the_document_on_the_page_on_journeys_is_one() -> None:
    [text] = blocks_of("yaml", JOURNEYS)
    document = journeys.loads(text)
    assert [milestone.id for milestone in document.walk()] == ["lapsed", "opened", "not-opened"]
    for milestone in document.walk():
        if milestone.criteria is not None:
            criterion_of(milestone.criteria)
    assert journeys.loads(journeys.dumps(document)) == document


@pytest.mark.parametrize(
    ("page", "group", "count"), [(JOURNEYS, "", 8), (OPERATIONS, "store", 13)], ids=["journeys", "operations"]
)
def test_the_commands_on_a_page_are_there(
    page: str, group: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = [line.partition("#")[0].split() for block in blocks_of("sh", page) for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["milepost"] and group in ("", words[1])]
    assert len(commands) == count
    for words in commands:
        name = words[:2] if words[0] in ("journey", "audience", "store") else words[:1]
        shown = CliRunner().invoke(app, [*name, "--help"])
        assert shown.exit_code == 0, f"there is no command {name}"
        assert [word for word in words if word.startswith("--") and word not in shown.output] == []


def test_the_program_on_the_page_on_imports_prints_what_it_says(tmp_path: Path) -> None:
    [block] = python_blocks(IMPORT)
    printed = io.StringIO()
    service = ServiceProcess(tmp_path / "store", flags=("--log-level", "warning"))
    with service, contextlib.redirect_stdout(printed):
        exec(compile(block.replace(DEFAULT_TARGET, service.target), "docs/import.md", "exec"), {})
    assert printed.getvalue().splitlines() == ["2 1", "REQUIRED user_id [2]"]
    assert "It prints `2 1` and `REQUIRED user_id [2]`." in IMPORT


def test_every_option_of_an_import_is_on_the_page_on_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["import", "--help"]).output
    of_every_command = {"--help", "--api-key", "--target"}
    of_the_service = {flag_of(field.name) for field in fields()}
    named = set(re.findall(r"(--[a-z][a-z-]+)", IMPORT)) - of_the_service
    assert named == set(re.findall(r"(--[a-z][a-z-]+)", shown)) - of_every_command


def test_the_limits_on_the_page_on_imports() -> None:
    assert f"segments of up to {SEGMENT_ROWS:,} rows" in IMPORT
    assert f"{ndjson.SEGMENT_ROWS:,} of NDJSON" in IMPORT
    assert f"appends {IMPORT_BATCH_ROWS:,} rows at a time" in IMPORT
    assert timedelta(hours=REQUEST_HORIZON_HOURS) == progress.REMEMBERED
