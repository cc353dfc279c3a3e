"""Criteria as documents: YAML and JSON, durations as people write them, and the place of every fault."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import Criterion
from milepost import Client
from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.documents import DocumentError, Positions, dumps_criteria, loads_criteria
from milepost.written_form import written
from service.convert.criteria import criteria_message
from tests.cli_runner import CliRunner
from tests.service.convert.test_criteria import criteria

LAPSED = """\
label: Lapsed
all_of:
  criteria:
    - event: {name: buy}
    - not:
        event:
          name: buy
          window: {last: 90d}
"""


@given(criteria(), st.sampled_from([None, 2, "\t"]))
def test_yaml_and_json_in_every_spelling_are_the_same_criteria(
    criterion: Criterion, indent: int | str | None
) -> None:
    message = criteria_message(criterion)
    assert loads_criteria(dumps_criteria(message)) == message
    assert loads_criteria(json.dumps(written(message), indent=indent)) == message
    assert loads_criteria(json_format.MessageToJson(message)) == message
    in_names_of_messages = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert loads_criteria(json.dumps(in_names_of_messages)) == message


def test_durations_are_read_as_people_write_them_and_written_as_json() -> None:
    read = loads_criteria(LAPSED)
    assert read.all_of.criteria[1].negation.event.window.last.seconds == 90 * 86_400
    assert "last: 90d" in dumps_criteria(read)
    assert loads_criteria(dumps_criteria(read)) == read
    [sequence, ago, attribute] = [
        loads_criteria(text)
        for text in (
            "sequence: {steps: [{name: a}, {name: b}], within: 1h30m}",
            "event: {window: {between_ago: {from: 2w, to: 12h}}}",
            "user_attribute: {key: k, test: {within_last: 20ms}}",
        )
    ]
    assert sequence.sequence.within.seconds == 5_400
    assert ago.event.window.between_ago.from_age.seconds == 14 * 86_400
    assert ago.event.window.between_ago.to_age.seconds == 43_200
    assert attribute.user_attribute.test.within_last.nanos == 20_000_000


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", [(None, "", "must be a mapping with label, all_of, any_of, not, ")]),
        ("- 1", [((1, 1), "", "must be a mapping with label, ")]),
        (
            "label: [1]\nevent: {nam: 1, tpye: 3}",
            [
                ((1, 1), "label", "must be a string, not [1]"),
                ((2, 9), "event.nam", "unknown field, did you mean 'name'?"),
                ((2, 17), "event.tpye", "unknown field, did you mean 'type'?"),
            ],
        ),
        ("zzz: 1", [((1, 1), "zzz", "unknown field; the fields are label, all_of, ")]),
        ("event: {window: {last: 30}}", [((1, 18), "event.window.last", "expected a duration like 30d")]),
        ("event: {window: {last: 1y}}", [((1, 18), "event.window.last", "expected a duration like 30d")]),
        (
            "event: {window: {range: {start: 2026-01-01}}}",
            [((1, 26), "event.window.range.start", "must be a time in RFC 3339, like ")],
        ),
        ("event: {aggregate: SUM}", [((1, 9), "event.aggregate", "must be one of AGGREGATE_COUNT, ")]),
        (
            "event: {test: {in: {values: [1, x]}}}",
            [((1, 33), "event.test.in.values[1]", "must be a number, not 'x'")],
        ),
        (
            "user_attribute: {test: {in: {values: [5, true, a b, [x]]}}}",
            [
                (
                    (1, 39),
                    "user_attribute.test.in.values[0]",
                    "must name the kind of the value, like {number_value: 5}; the kinds are string_value, ",
                ),
                (
                    (1, 42),
                    "user_attribute.test.in.values[1]",
                    "must name the kind of the value, like {bool_value: true}",
                ),
                (
                    (1, 48),
                    "user_attribute.test.in.values[2]",
                    'must name the kind of the value, like {string_value: "a b"}',
                ),
                ((1, 53), "user_attribute.test.in.values[3]", "must be a mapping with string_value, "),
            ],
        ),
        ("{not: {}, event: {}}", [((1, 1), "", "has `not` and `event`; only one of them may be set")]),
        ("not: {}\nnegation: {}", [((2, 1), "negation", "is given twice")]),
        ("all_of: {criteria: {}}", [((1, 10), "all_of.criteria", "must be a list")]),
        ("all_of: {criteria: [null]}", [((1, 21), "all_of.criteria[0]", "must be a mapping with label, ")]),
        (
            "user_attribute: {test: {exists: true, ignore_case: 1}}",
            [
                ((1, 25), "user_attribute.test.exists", "must be {}"),
                ((1, 39), "user_attribute.test.ignore_case", "must be true or false, not 1"),
            ],
        ),
        (
            '{"event":\n\t{"nme": "\\ud83d\\ude00"}}',
            [((2, 3), "event.nme", "unknown field, did you mean 'name'?")],
        ),
        ("{not: " * 2_000 + "}" * 2_000, [(None, "", "is nested too deeply")]),
        ('{"not":' * 500 + "{}" + "}" * 500, [(None, "", "is nested too deeply")]),
        ("[" * 3_000, [(None, "", "is nested too deeply")]),
    ],
)
def test_every_fault_has_its_place(text: str, faults: list[tuple[tuple[int, int] | None, str, str]]) -> None:
    with pytest.raises(DocumentError) as raised:
        loads_criteria(text)
    found = raised.value.faults
    assert [path for path, _ in found] == [path for _, path, _ in faults]
    for (path, problem), (place, _, start) in zip(found, faults, strict=True):
        assert problem.startswith(start)
        assert place is None or Positions(text).find(path) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("event: {", (1, 9)),
        ("event:\n  name: a: b", (2, 10)),
        ("\tevent: {}", (1, 1)),
        ("{a: 1, a: 2}", (1, 8)),
        ('{"event": {},\n\t"event": {}}', (2, 2)),
        ("event: !!python/object:os.system {}", (1, 8)),
    ],
)
def test_a_text_that_is_no_yaml_says_where(text: str, place: tuple[int, int]) -> None:
    with pytest.raises(
        DocumentError, match=f"^line {place[0]}, column {place[1]}: is not valid YAML: "
    ) as raised:
        loads_criteria(text)
    assert raised.value.position == place


# --- a command against a service ---


def test_criteria_files_are_yaml_or_json_and_faults_have_file_line_and_column(tmp_path: Path) -> None:
    yaml, json_, faulty = (tmp_path / name for name in ("lapsed.yaml", "lapsed.json", "faulty.yaml"))
    yaml.write_text(LAPSED, encoding="utf-8")
    text_of_json = json.dumps(written(loads_criteria(LAPSED)), indent=1)
    json_.write_text(text_of_json, encoding="utf-8")
    before = text_of_json.partition('"name"')[0].splitlines()
    with (
        ServiceProcess(tmp_path / "store", flags=("--log-level", "warning")) as service,
        Client(service.target, account="a") as client,
    ):
        client.ensure_account()
        client.ensure_journey("j")

        def estimate(file: str, text: str | None = None) -> tuple[int, str, str]:
            arguments = ["estimate", "j", "--criteria", file, "--target", service.target, "--account", "a"]
            result = CliRunner().invoke(app, arguments, input=text)
            return result.exit_code, result.stdout, result.stderr

        # 1. YAML, JSON and the standard input are one; a warning names its place.
        for file, text, place in (
            (str(yaml), None, f"{yaml}:4:15"),
            (str(json_), None, f"{json_}:{len(before)}:{len(before[-1]) + 1}"),
            ("-", LAPSED, "-:4:15"),
        ):
            status, shown, _ = estimate(file, text)
            assert (status, "Lapsed" in shown) == (0, True)
            assert f"warning: {place}: all_of.criteria[0].event.name: no event named 'buy'" in shown
        # 2. What the client finds, and what the service finds, each with its place.
        faulty.write_text("event:\n  name: buy\n  window: {last: 1y}\n", encoding="utf-8")
        status, shown, error = estimate(str(faulty))
        assert (status, shown) == (1, "")
        assert error.startswith(f"milepost: {faulty}:3:12: event.window.last: expected a duration like 30d")
        faulty.write_text(
            dedent("""\
            not:
              user_attribute:
                key: k
                test: {matches: "("}
            """),
            encoding="utf-8",
        )
        status, shown, error = estimate(str(faulty))
        assert (status, shown) == (1, "")
        assert error.startswith(f"milepost: {faulty}:4:12: not.user_attribute.test.matches: ")
        faulty.write_text("a: b: c", encoding="utf-8")
        assert estimate(str(faulty))[2].startswith(f"milepost: {faulty}:1:5: is not valid YAML: ")
        assert "No such file" in estimate(str(tmp_path / "none.yaml"))[2]
