"""Results as JUnit XML, the form that CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from milepost.rules.report import FileResult

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no place for."""


def xml_of(files: Sequence[FileResult]) -> bytes:
    """A document with a suite for each file and a case for each of its tests. A file that could not be read
    has one case with an error.
    """
    root = ET.Element(
        "testsuites",
        tests=str(sum(file.cases for file in files)),
        failures=str(sum(file.failed for file in files)),
        errors=str(sum(file.errors for file in files)),
        time=_seconds(sum(file.seconds for file in files)),
    )
    for file in files:
        _suite(ET.SubElement(root, "testsuite"), file)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _suite(suite: ET.Element, file: FileResult) -> None:
    suite.attrib |= {
        "name": _clean(file.name),
        "tests": str(file.cases),
        "failures": str(file.failed),
        "errors": str(file.errors),
        "time": _seconds(file.seconds),
    }
    if file.faults:
        case = ET.SubElement(
            suite, "testcase", name="(the file)", classname=_clean(file.name), time=_seconds(0.0)
        )
        _problem(case, "error", file.faults[0], "\n".join(file.faults))
    for result in file.results:
        case = ET.SubElement(
            suite,
            "testcase",
            name=_clean(result.scenario.name),
            classname=_clean(file.name),
            file=_clean(file.name),
            line=str(file.line_of(result) or 0),
            time=_seconds(result.seconds),
        )
        for failure in result.failures:
            lines = [f"{failure.position}: {failure.message}", *failure.reasons]
            _problem(case, "failure", failure.message, "\n".join(lines))
        if result.error:
            _problem(case, "error", result.error[0], "\n".join(result.error))


def _problem(case: ET.Element, kind: str, message: str, text: str) -> None:
    problem = ET.SubElement(case, kind, message=_clean(message), type=kind)
    problem.text = _clean(text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _clean(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
