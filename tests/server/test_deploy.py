"""The files in deploy/, checked against the real command and a live server: what they start is started."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml
from serving import GTE, Process

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, the rest) in order."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def last(instruction: str) -> str:
    return [rest for word, rest in dockerfile() if word == instruction][-1]


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def container() -> dict[str, Any]:
    (deployment,) = [each for each in manifests() if each["kind"] == "Deployment"]
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(one)


def test_the_image_s_command_serves(tmp_path: Path):
    """ENTRYPOINT and CMD unchanged but for the port, an empty cache; then the health check and SIGTERM."""
    entry, arguments = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entry[:2] == ["gte", "serve"]
    assert entry[entry.index("--port") + 1] == last("EXPOSE")
    stop = [word for word in dict(dockerfile()) if word == "STOPSIGNAL"]
    assert stop == ["STOPSIGNAL"]
    (cache,) = re.findall(r"GTE_CACHE=(\S+)", last("ENV"))
    assert cache.startswith("/tmp/"), "the only place that may be written"
    env = {
        **os.environ,
        "GTE_API_KEY": "key-of-the-image",
        "GTE_CACHE": str(tmp_path / "cache"),
        "HOME": "/nonexistent",
    }
    process = Process(tmp_path, *entry[2:], *arguments, "--port", "0", env=env)  # the last --port counts
    try:
        check = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
        check = [
            sys.executable if word == "python" else word.replace(":7997", f":{process.port}")
            for word in check
        ]
        assert subprocess.run(check, timeout=60).returncode == 0
        assert process.post("/v1/embeddings", {"input": "x"}).status_code == 401
        good = process.post(
            "/v1/embeddings", {"input": "x"}, headers={"authorization": "Bearer key-of-the-image"}
        )
        assert good.status_code == 200
    finally:
        assert process.stop() == 0
    assert subprocess.run(check, timeout=60, capture_output=True).returncode != 0, "a check that never fails"


def test_without_a_key_the_image_does_not_start(tmp_path: Path):
    """It listens to all; nobody should find it open by accident."""
    env = {name: value for name, value in os.environ.items() if name != "GTE_API_KEY"}
    done = subprocess.run(
        [*GTE, *json.loads(last("ENTRYPOINT"))[1:]], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "GTE_API_KEY" in done.stderr


def test_the_image_is_nobody_s():
    instructions = dockerfile()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    after = instructions[[word for word, _ in instructions].index("USER") :]
    assert not [word for word, _ in after if word in ("RUN", "COPY", "ADD")]
    assert json.loads(last("VOLUME")) == ["/models"]
    for word, rest in instructions:
        if word == "COPY" and "--from" not in rest:
            for source in shlex.split(rest)[:-1]:
                assert (DEPLOY.parent / source).exists(), source
                assert f"!{source}" in (DEPLOY.parent / ".dockerignore").read_text().splitlines()


def test_kubernetes_probes_are_answered(server: Process):
    """Every probe's path exists, needs no key and says yes; the port is the one that the image serves."""
    one = container()
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert str(ports["http"]) == last("EXPOSE")
    paths = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = one[name]["httpGet"]
        assert probe["port"] in ports
        paths[name] = probe["path"]
        assert server.get(probe["path"]).status_code == 200
        described = server.get("/openapi.json").json()["paths"][probe["path"]]["get"]
        assert described["security"] == []
    assert paths["readinessProbe"] == "/health/ready"
    assert paths["livenessProbe"] == "/health/live", (
        "a server that drains or is overloaded must not be killed"
    )
    (service,) = [each for each in manifests() if each["kind"] == "Service"]
    assert service["spec"]["ports"][0]["targetPort"] in ports


def test_kubernetes_gives_it_no_more_than_it_needs():
    (deployment,) = [each for each in manifests() if each["kind"] == "Deployment"]
    pod, one = deployment["spec"]["template"]["spec"], container()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == last("USER")
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"]: mount for mount in one["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert mounts["models"]["readOnly"] is True
    for option in re.findall(r"--[a-z-]+", " ".join(one["args"])):
        assert option in subprocess.run([*GTE, "serve", "--help"], capture_output=True, text=True).stdout
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == last("EXPOSE")


def test_prometheus_finds_metrics(server: Process):
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"gte:{last('EXPOSE')}"
    assert target.partition(":")[0] in compose
    answer = server.get(job["metrics_path"])
    assert answer.status_code == 200
    assert "gte_" in answer.text
    gte = compose["gte"]
    assert gte["read_only"] is True
    assert (DEPLOY / gte["build"]["context"] / gte["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert all(port.startswith("127.0.0.1:") for each in compose.values() for port in each["ports"])


@pytest.mark.parametrize("name", ["compose.yaml", "prometheus.yaml", "kubernetes.yaml"])
def test_no_key_stands_twice(name: str):
    """YAML's reader takes the last of two; people read the first."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{name}: {keys}"
            return super().construct_mapping(node, deep)

    assert list(yaml.load_all((DEPLOY / name).read_text(), Strict))


def test_triton_s_names_are_the_graph_s(tiny_bundle: Path, tmp_path: Path):
    """The recipe's copies load as one folder, with the inputs, outputs, types and ranks that it names."""
    for file in tiny_bundle.glob("*.bin"):
        shutil.copy(file, tmp_path)
    (graph,) = tiny_bundle.glob("portable-fp32*.onnx")
    shutil.copy(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    recipe = re.findall(
        r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (-?\d+) \]', (DEPLOY / "triton.md").read_text()
    )
    types = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}
    real = [
        *session.get_inputs(),
        *session.get_outputs()[:2],
    ]  # a configuration may leave outputs out, here `token_states`
    assert [(each.name, types[each.type]) for each in real] == [(name, kind) for name, kind, _ in recipe]
    assert [len(each.shape) for each in real] == [2] * len(recipe)
    assert [isinstance(each.shape[1], str) for each in real] == [dims == "-1" for _, _, dims in recipe]
