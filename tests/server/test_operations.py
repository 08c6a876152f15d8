"""What operators get, held to the server: alerts and dashboard to its metrics, the units to their schemas and
to what the server needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import Process

from gte_runtime.cli import serve
from gte_runtime.server.metrics import Metrics
from gte_runtime.server.options import Options
from gte_runtime.server.refusals import CODES

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DEPLOY / "dashboard.json").read_text())
OF_PROMETHEUS = {"job", "instance"}
"""Labels that a scrape adds."""
TRIES_IT = "the command that reads this file is not installed"


def series() -> dict[str, set[str]]:
    """The names that `/metrics` can have, with their labels."""
    metrics = Metrics()
    found: dict[str, set[str]] = {"up": set()}
    ours = {
        each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")
    }
    for family in metrics.registry.collect():
        labels = ours.get(family.name, set())
        if family.type == "histogram":
            found |= {f"{family.name}_bucket": labels | {"le"}}
            found |= {f"{family.name}_{end}": labels for end in ("sum", "count")}
        else:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found |= dict.fromkeys({name, *(sample.name for sample in family.samples)}, labels)
    return found


def expressions() -> dict[str, str]:
    """Every expression of the alerts and the dashboard, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']}, {target['refId']}"] = target["expr"].replace("$__rate_interval", "5m")
    return found


def selectors(node: Any) -> Iterator[tuple[Any, set[str]]]:
    """(selector, labels that it is grouped by) of a parsed expression."""
    if hasattr(node, "matchers"):
        yield node, set()
    modifier = getattr(node, "modifier", None)
    grouped = set(getattr(modifier, "labels", None) or ())
    children = [
        getattr(node, name) for name in ("expr", "lhs", "rhs", "vector_selector") if hasattr(node, name)
    ]
    for child in [*children, *getattr(node, "args", ())]:
        for selector, labels in selectors(child):
            yield selector, labels | grouped


VALUES = {"reason": set(CODES) | {"answer_not_read"}, "status": None, "model": None}
"""Values of our labels, where they are known; routes are tested by the server."""


@pytest.mark.parametrize("where", expressions())
def test_expressions_name_what_the_server_has(where: str):
    """Each parses; each metric exists, and so do the labels it selects or groups by, and their values."""
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    known = series()
    found = list(selectors(parser.parse(expressions()[where])))
    assert found
    for selector, grouped in found:
        assert selector.name in known, selector.name
        labels = known[selector.name] | OF_PROMETHEUS
        assert grouped <= labels, f"{selector.name} has no {grouped - labels}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{selector.name} has no {matcher.name}"
            values = VALUES.get(matcher.name)
            if values is not None:
                assert set(matcher.value.split("|")) <= values, matcher.value


def test_the_names_are_those_of_the_page(server: Process):
    """`series` is right: a live server's page has no name of ours that it lacks, and no other labels."""
    server.post("/v1/encode", {"input": ["a", "b"]})
    server.post("/v1/encode", {"input": ""})
    known = series()
    for line in server.get("/metrics").text.splitlines():
        if line.startswith("gte_") and not re.match(r"\w+_created\b", line):
            name, labels, _ = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
            assert name in known, name
            assert set(re.findall(r'(\w+)="', labels or "")) == known[name], line


def test_alerts_say_what_to_do():
    """A severity, a summary, an action, and a row in the operator's table."""
    page = (DEPLOY / "README.md").read_text()
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.search(rf"^\|[^|]*\b{rule['alert']}\b", page, re.MULTILINE), rule["alert"]


def test_alerts_as_prometheus_reads_them():
    """promtool: the rules are valid, and fire when they should and not before."""
    promtool = shutil.which("promtool") or pytest.skip(TRIES_IT)
    for command in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")):
        done = subprocess.run([promtool, *command], cwd=DEPLOY, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (DEPLOY / "alerts.test.yaml").read_text()
    assert all(f"alertname: {rule['alert']}\n" in tested for rule in ALERTS), "an alert is not tested"


def test_compose_hands_prometheus_its_files():
    named = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["rule_files"]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["prometheus"]["volumes"]
    mounted = {Path(inside).name for _, inside, _ in (volume.split(":") for volume in volumes)}
    assert mounted == {"prometheus.yml", *named}
    assert all((DEPLOY / volume.split(":")[0]).is_file() for volume in volumes)


def test_the_dashboard_is_whole():
    """Ids once, panels beside one another, and only variables that it defines, from known series."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {
        "__rate_interval",
        "__all",
    }
    assert set(re.findall(r"\$(\w+)", json.dumps(DASHBOARD))) <= defined
    asked = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert len(asked) == 3
    known = series()
    for query in asked:
        name, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", query).groups()
        assert label in known[name] | OF_PROMETHEUS


# --- Kubernetes ---


def rendered(folder: Path) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl") or pytest.skip(TRIES_IT)
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The overlay of the operator's page, beside a copy of deploy/."""
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", (DEPLOY / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(block)
    return tmp_path / "overlay"


def plain() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def test_manifests_fit_their_schemas():
    """By the schemas that the API server publishes, unknown fields refused."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in plain():
        validate.validate(manifest, "1.34", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(plain()[0] | {"unknown": 1}, "1.34", strict=True)


def test_the_overlay_changes_what_it_names(overlay: Path):
    """Image, replicas, size and namespace; everything else is the base, which is kubernetes.yaml."""
    kinds = {each["kind"]: each for each in rendered(overlay)}
    assert set(kinds) == {"Deployment", "Service", "PodDisruptionBudget", "ServiceMonitor"}
    assert {each["metadata"]["namespace"] for each in kinds.values()} == {"search"}
    spec = kinds["Deployment"]["spec"]
    (one,) = spec["template"]["spec"]["containers"]
    assert (one["image"], spec["replicas"]) == ("registry.example/gte-serve:0.1.0", 3)
    assert one["resources"]["limits"]["cpu"] == "4"
    base = {each["kind"]: each for each in rendered(DEPLOY)}
    assert base == {each["kind"]: each for each in plain()}


def test_threads_are_the_limit():
    """--threads is what the pod may use: the downward API gives the limit as a whole number, rounded up."""
    (deployment,) = [each for each in plain() if each["kind"] == "Deployment"]
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    (variable,) = one["env"]
    assert variable["valueFrom"]["resourceFieldRef"] == {"resource": "limits.cpu"}
    assert one["args"][one["args"].index("--threads") + 1] == f"$({variable['name']})"
    limit, asked = one["resources"]["limits"]["cpu"], one["resources"]["requests"]["cpu"]
    assert limit == asked
    assert limit == str(int(limit)), "half a processor would be rounded up to one thread"


def test_objects_find_each_other(overlay: Path):
    """The service, the budget and the monitor select the pods or the service by labels that those have."""
    kinds = {each["kind"]: each for each in rendered(overlay)}
    pods = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    service, monitor = kinds["Service"], kinds["ServiceMonitor"]
    assert service["spec"]["selector"].items() <= pods
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= pods
    assert kinds["PodDisruptionBudget"]["spec"]["minAvailable"] < 2 <= plain()[0]["spec"]["replicas"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert service["metadata"]["name"] == "gte", "the job, by which the alerts ask"


def test_the_rules_become_an_object():
    """The page's one line for the Prometheus operator, with `cat` for kubectl."""
    page = (DEPLOY / "README.md").read_text()
    (line,) = [line for line in page.splitlines() if "PrometheusRule" in line]
    done = subprocess.run(
        ["sh", "-c", line.replace("kubectl apply -f -", "cat")],
        cwd=DEPLOY.parent,
        capture_output=True,
        check=True,
    )
    made = yaml.safe_load(done.stdout)
    assert made["kind"] == "PrometheusRule"
    assert made["spec"]["groups"][0]["rules"] == ALERTS


# --- systemd ---


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "gte.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_is_valid_and_confined(tmp_path: Path):
    """systemd reads it without a complaint, and rates what it may still do: 1.5 of 10 at most."""
    analyze = shutil.which("systemd-analyze") or pytest.skip(TRIES_IT)
    file = tmp_path / "gte.service"
    file.write_text((DEPLOY / "gte.service").read_text().replace("/opt/gte/bin/gte", "/bin/true"))
    for command in (("verify",), ("security", "--offline=true", "--threshold=15", "--no-pager")):
        done = subprocess.run([analyze, *command, str(file)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        if command == ("verify",):
            assert (done.stdout + done.stderr).strip() == ""


def test_the_unit_s_numbers_agree():
    """As many processors as threads; more time to stop than the drain takes; options that exist."""
    found, words = unit(), unit()["ExecStart"][0].split()
    threads = int(words[words.index("--threads") + 1])
    assert found["CPUQuota"] == [f"{100 * threads}%"]
    options = {option for parameter in serve.command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert int(found["TimeoutStopSec"][0]) > Options().drain_timeout
    assert found["Restart"] == ["on-failure"], "exit code 70 is to be started again"
    assert any("GTE_CACHE=%C/gte" in each for each in found["Environment"])
    assert (found["CacheDirectory"], found["CacheDirectoryMode"]) == (["gte"], ["0700"])


CONFINED = """
import ctypes, errno, json, mmap, os, sys
libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, what MemoryDenyWriteExecute sets
seccomp.seccomp_init.restype = ctypes.c_void_p
seccomp.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
rules = seccomp.seccomp_init(0x50000 | errno.EPERM)
for name in json.loads(sys.argv.pop(1)):
    if (number := seccomp.seccomp_syscall_resolve_name(name.encode())) >= 0:
        seccomp.seccomp_rule_add(rules, 0x7FFF0000, number, 0)
assert seccomp.seccomp_load(rules) == 0
for forbidden in (lambda: mmap.mmap(-1, 4096, prot=7), lambda: os.chroot("/")):
    try:
        forbidden()
    except OSError:
        continue
    sys.exit("not confined")
from gte_runtime.cli import main
main()
"""


def allowed(group: str) -> set[str]:
    """The calls of a group of systemd's, such as @system-service."""
    command = ["systemd-analyze", "syscall-filter", group]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    words = [line.strip() for line in done.stdout.splitlines()[1:] if not line.strip().startswith("#")]
    groups = [allowed(word) for word in words if word.startswith("@")]
    return {word for word in words if word and not word.startswith("@")}.union(*groups)


@pytest.mark.slow
def test_the_server_lives_within_the_unit(tiny_bundle: Path, tmp_path: Path):
    """With the unit's calls, and no memory that is written and run, it starts, answers and ends. The cache is
    where systemd puts it for a user of the moment: behind a link."""
    if not shutil.which("systemd-analyze"):
        pytest.skip(TRIES_IT)
    if os.uname().machine != "x86_64" or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 3):
        pytest.skip("PR_SET_MDWE is of Linux 6.3")
    assert unit()["SystemCallFilter"] == ["@system-service", "~@privileged"]
    calls = allowed("@system-service") - allowed("@privileged")
    assert 200 < len(calls) < 400
    (tmp_path / "private" / "gte").mkdir(parents=True, mode=0o700)
    (tmp_path / "gte").symlink_to("private/gte")
    process = Process(
        tmp_path,
        *("--model", str(tiny_bundle), "--model", "gte-mini", "--threads", "2"),
        env={**os.environ, "GTE_CACHE": str(tmp_path / "gte"), "HOME": "/nonexistent"},
        command=[sys.executable, "-c", CONFINED, json.dumps(sorted(calls))],
    )
    try:
        assert process.post("/v1/encode", {"input": ["a", "b " * 600], "sparse": True}).status_code == 200
    finally:
        assert process.stop() == 0
    assert "Traceback" not in process.log_text()
    assert list((tmp_path / "private" / "gte").rglob("manifest.json")), "the shipped model was built here"
