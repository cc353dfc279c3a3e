"""The files of docs/deploy name only what exists, and agree with each other.

`make deploy-files` runs the tools of their formats over them; this file runs those that are installed too.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from engine.resources.records import ConnectionState
from service.command_line import flag_of, variable_of
from service.config import fields as settings
from service.config import load, unknown_variables
from tests.harness import serving
from tools import check_deploy

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "docs" / "deploy"
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "systemd" / "milepost.service").read_text(encoding="utf-8")
MONITORING = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SERVER_FILES = sorted(DEPLOY.glob("*/milepost.toml"))
HISTOGRAM_ENDINGS = ("_bucket", "_sum", "_count")


def documents(path: Path) -> list[Any]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each is not None]


def kubernetes() -> dict[tuple[str, str], Any]:
    """Kind and name → object."""
    found = [each for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in documents(path)]
    return {(each["kind"], each.get("metadata", {}).get("name", "")): each for each in found}


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SERVER_FILES, ids=lambda path: path.parent.name)
def test_configuration_files_are_read(path: Path) -> None:
    config = load(["--config-file", str(path)], {})
    assert (config.directory, config.port, config.metrics_port) == (Path("/var/lib/milepost"), 7443, 9464)
    assert config.log_format == "json"
    assert config.store_settings == {"map_bytes": 256 << 30}


def test_there_are_configuration_files() -> None:
    assert {path.parent.name for path in SERVER_FILES} == {"systemd", "kubernetes"}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_flags_of_unit_and_pod_exist() -> None:
    known = {flag_of(field.name) for field in settings()}
    [start] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    pod = kubernetes()["StatefulSet", "milepost"]["spec"]["template"]["spec"]["containers"][0]
    for flags in (shlex.split(start)[1:], pod["args"]):
        assert flags_in(" ".join(flags)) != set()
        assert flags_in(" ".join(flags)) <= known


# --- container ----------------------------------------------------------------------------------------------


def variables_of_the_image() -> dict[str, str]:
    joined = CONTAINERFILE.replace("\\\n", " ")
    return dict(
        pair.split("=", 1)
        for line in re.findall(r"^ENV (.*)$", joined, re.MULTILINE)
        for pair in shlex.split(line)
    )


def test_variables_of_the_image_are_settings() -> None:
    variables = variables_of_the_image()
    assert unknown_variables(variables, "local") == {}
    config = load([], variables)
    assert {variable_of(field.name) for field in settings()} >= set(variables)
    exposed = set(re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)[0].split())
    assert exposed == {str(config.port), str(config.metrics_port)}
    assert f"VOLUME {config.data_dir}\n" in CONTAINERFILE
    assert f"--mode 0700 {config.data_dir}" in CONTAINERFILE


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(copied) >= 5
    ignored = (DEPLOY / "container" / "Containerfile.dockerignore").read_text(encoding="utf-8")
    sent = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    assert set(copied) == sent
    for source in copied:
        assert (ROOT / source).exists(), source
    # What the wheel of the server is built from.
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sent


def test_the_image_runs_the_server_as_a_user_and_installs_extras_that_exist() -> None:
    [entry] = re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)
    assert json.loads(entry)[0] in PYPROJECT["project"]["scripts"]
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", CONTAINERFILE, re.MULTILINE)
    client = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text(encoding="utf-8"))
    installed = dict(re.findall(r"wheels/(\w+)-\*\.whl\)\[([\w,]+)\]", CONTAINERFILE))
    assert set(installed["milepost_server"].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
    assert set(installed["milepost"].split(",")) <= set(client["project"]["optional-dependencies"])


def test_the_health_check_of_the_image_tells_serving_from_not(tmp_path: Path) -> None:
    [check] = re.findall(r"^    CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    program = json.loads(check)
    assert program[0] == "python"

    image = load([], variables_of_the_image())

    def status(address: str) -> int:
        code = program[2].replace(f"127.0.0.1:{image.metrics_port}", address)
        assert code != program[2]
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode

    with serving(tmp_path / "store", metrics_port=0) as service:
        address = service.application.metrics_address
        assert address is not None
        assert status(address) == 0
    assert status(address) != 0


# --- systemd ------------------------------------------------------------------------------------------------


def test_the_unit_fits_the_service() -> None:
    unit = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    config = load(["--config-file", str(DEPLOY / "systemd" / "milepost.toml")], {})
    assert unit["Type"] == "notify"
    assert f"/var/lib/{unit['StateDirectory']}" == str(config.data_dir)
    assert unit["RestartPreventExitStatus"] == "2"
    assert unit["ExecStart"].startswith(check_deploy.INSTALLED_SERVER)
    assert unit["TimeoutStopSec"] == "3min"
    assert config.stop_grace_s < 180


# --- Kubernetes ---------------------------------------------------------------------------------------------


def test_kustomization_names_files_that_exist() -> None:
    [base] = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    generated = [file for each in base["configMapGenerator"] for file in each["files"]]
    for name in (*base["resources"], *generated):
        assert (DEPLOY / "kubernetes" / name).is_file(), name
    image = kubernetes()["StatefulSet", "milepost"]["spec"]["template"]["spec"]["containers"][0]["image"]
    [renamed] = base["images"]
    assert renamed["name"] == image
    init = kubernetes()["Pod", "milepost-init"]["spec"]["containers"][0]["image"]
    assert init == f"{renamed['newName']}:{renamed['newTag']}"
    assert renamed["newTag"] == PYPROJECT["project"]["version"]


def test_the_objects_refer_to_each_other() -> None:
    objects = kubernetes()
    workload = objects["StatefulSet", "milepost"]["spec"]
    template = workload["template"]
    labels = template["metadata"]["labels"]
    assert workload["selector"]["matchLabels"].items() <= labels.items()
    assert workload["replicas"] == 1
    assert ("Service", workload["serviceName"]) in objects
    [container] = template["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    config = load(["--config-file", str(DEPLOY / "kubernetes" / "milepost.toml")], {})
    assert ports == {"grpc": config.port, "metrics": config.metrics_port}
    for (kind, _), each in objects.items():
        if kind == "Service":
            assert each["spec"]["selector"].items() <= labels.items()
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= set(ports)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == config.port
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(config.metrics_port)
    volumes = {each["name"] for each in template["spec"]["volumes"]}
    volumes |= {each["metadata"]["name"] for each in workload["volumeClaimTemplates"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounts) == volumes
    assert mounts["data"] == str(config.data_dir)
    assert container["args"] == ["--config-file", f"{mounts['config']}/milepost.toml"]
    assert template["spec"]["enableServiceLinks"] is False
    assert template["spec"]["terminationGracePeriodSeconds"] > config.stop_grace_s
    claim = objects["Pod", "milepost-init"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == f"data-{objects['StatefulSet', 'milepost']['metadata']['name']}-0"


def test_pods_run_as_the_user_of_the_image() -> None:
    [user] = re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    for pod in (
        kubernetes()["StatefulSet", "milepost"]["spec"]["template"]["spec"],
        kubernetes()["Pod", "milepost-init"]["spec"],
    ):
        security = pod["securityContext"]
        assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
        assert str(security["fsGroup"]) == user[1]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


# --- alerts and dashboard -----------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    [file] = documents(DEPLOY / "prometheus" / "alerts.yaml")
    return [rule for group in file["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it is, and the PromQL."""
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]
    dashboard = json.loads((DEPLOY / "grafana" / "milepost.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]


def documented() -> dict[str, str]:
    """Metric → kind."""
    table = MONITORING.partition("<!-- metrics")[2].partition("<!-- end -->")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.MULTILINE))


PROCESS_METRICS = {
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
}
"""Served by every Linux process with the Prometheus client."""


def test_every_metric_in_alerts_and_dashboard_is_served() -> None:
    kinds = documented()
    found = list(expressions())
    assert len(found) > 40
    for where, expression in found:
        names = set(re.findall(r"\b(?:milepost|grpc_server|process)_\w+", expression))
        names -= set(re.findall(r"job=\"(\w+)\"", expression))
        assert names or "up{" in expression, where
        for name in names:
            ending = next((each for each in HISTOGRAM_ENDINGS if name.endswith(each)), "")
            if ending and kinds.get(name.removesuffix(ending)) == "histogram":
                continue
            assert name in kinds or name in PROCESS_METRICS, f"{where} names {name}"
            assert kinds.get(name) != "histogram", f"{where} reads {name} without a suffix"
        for metric in re.findall(r"(?:rate|increase)\((\w+)", expression):
            assert metric.endswith(("_total", *HISTOGRAM_ENDINGS)), f"{where} takes a rate of {metric}"


def test_labels_in_alerts_and_dashboard_have_values_that_occur() -> None:
    contract = (ROOT / "protos" / "milepost" / "v1").glob("*_service.proto")
    methods = {
        name for path in contract for name in re.findall(r"^  rpc (\w+)", path.read_text(), re.MULTILINE)
    }
    known = {
        "grpc_code": {code.name for code in grpc.StatusCode},
        "state": {state.name.lower() for state in ConnectionState},
        "grpc_method": methods,
        "job": {"milepost"},
        "instance": {"$instance"},
    }
    for where, expression in expressions():
        for label, _, value in re.findall(r"(\w+)(=~|!=|=)\"([^\"]*)\"", expression):
            assert set(value.split("|")) <= known[label], f"{where}: {label}"


def test_every_alert_says_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}


def test_panels_are_numbered_and_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana" / "milepost.json").read_text(encoding="utf-8"))["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# --- the tools of the formats -------------------------------------------------------------------------------


CHECKS = ("hadolint", "kubernetes-validate", "kustomize", "promtool", "systemd-analyze")


def test_every_file_has_a_check_of_its_format(tmp_path: Path) -> None:
    checked = {check.file for check in check_deploy.checks(tmp_path)}
    formats = {path for suffix in ("*.yaml", "Containerfile", "*.service") for path in DEPLOY.rglob(suffix)}
    assert checked == formats
    assert {check.command[0] for check in check_deploy.checks(tmp_path)} == set(CHECKS)


@pytest.mark.parametrize("tool", CHECKS)
def test_the_tool_of_the_format_finds_nothing(tool: str, tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed; make deploy-files names it")
    for check in check_deploy.checks(tmp_path):
        if check.command[0] == tool:
            assert check_deploy.run(check) == "", check.file


def test_systemd_would_report_an_unknown_setting(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    [check] = [each for each in check_deploy.checks(tmp_path) if each.command[0] == "systemd-analyze"]
    unit = Path(check.command[-1])
    unit.write_text(unit.read_text(encoding="utf-8").replace("StateDirectory=", "StateDirektory="), "utf-8")
    assert "StateDirektory" in check_deploy.run(check)
