"""`gte bench latency` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gte_runtime import Embedder
from gte_runtime.bench.latency import STAGES

FAST = ("--repeats", "2", "--warmup", "0")


def gte(*args: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from gte_runtime.cli import main; main()", "bench", "latency", *args]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, threads=1) as engine:
        yield engine


@pytest.mark.slow
def test_json_on_stdout_and_a_table_on_stderr(tiny_bundle: Path):
    """stdout is one JSON object with all it takes to read the numbers; the table goes to stderr."""
    done = gte(
        "--model",
        str(tiny_bundle),
        "--threads",
        "1",
        "--tokens",
        "5",
        "--tokens",
        "70",
        "--batch",
        "3",
        "--repeats",
        "100",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with Embedder.open(tiny_bundle, threads=1) as engine:
        assert {name: found[name] for name in ("model", "bundle", "variant", "provider")} == {
            name: engine.info[name] for name in ("model", "bundle", "variant", "provider")
        }
    assert (found["bench"], found["load"]) == ("latency", "closed loop, one caller")
    assert datetime.fromisoformat(found["date"]).utcoffset() == timedelta(0)
    assert set(found["hardware"]) == {"cpu", "cores", "cores_usable", "system", "threads"}
    assert found["hardware"]["threads"] == 1
    assert {"python", "numpy", "tokenizers", "gte-runtime"} <= set(found["versions"])
    assert found["options"] == {
        "tokens": [5, 70], "batch": [3], "seconds": None, "repeats": 100, "warmup": 3, "input_texts": None,
        "sparse": True,
    }  # fmt: skip
    assert [(cell["tokens"], cell["batch"], cell["n"]) for cell in found["cells"]] == [
        (5, 3, 100),
        (70, 3, 100),
    ]
    for cell in found["cells"]:
        assert cell["tokens_per_call"] == cell["tokens"] * cell["batch"]
        assert list(cell["ms"]) == ["total", *STAGES]
        for times in cell["ms"].values():
            assert times["p50"] <= times["p95"] <= times["p99"]
        assert sum(cell["ms"][stage]["mean"] for stage in STAGES) == pytest.approx(
            cell["ms"]["total"]["mean"], abs=1e-4
        )
    title, head, *table = done.stderr.decode().splitlines()
    assert "cpu-fp32" in title
    assert head.split() == ["tokens", "batch", "n", "stage", "p50", "p95", "p99", "mean", "tokens/s"]
    assert [line.split()[0] for line in table] == ["5", *STAGES, "70", *STAGES]
    assert table[0].split()[:4] == ["5", "3", "100", "total"]


@pytest.mark.slow
def test_texts_of_a_file(tiny_bundle: Path, tmp_path: Path):
    """A user's own texts are run in their order, and one that was cut is mentioned."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"body": text}) + "\n" for text in ("a", "the and", "a " * 9000)))
    done = gte(
        "--model",
        str(tiny_bundle),
        "-i",
        str(source),
        "--text-field",
        "body",
        "--batch",
        "3",
        "--repeats",
        "1",
        "--warmup",
        "0",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (cell,) = found["cells"]
    assert (found["options"]["tokens"], found["options"]["input_texts"]) == (None, 3)
    assert (cell["tokens"], cell["tokens_per_call"], cell["truncated"], cell["ms"]["total"]["p99"]) == (
        None,
        3 + 4 + 8192,
        1,
        None,
    )
    table = done.stderr.decode().splitlines()
    assert table[2].split()[:4] == ["any", "3", "1", "total"]
    assert table[2].split()[6] == "-"
    assert "were cut, 1 times" in table[-1]


@pytest.mark.slow
def test_texts_of_stdin(tiny_bundle: Path):
    done = gte("--model", str(tiny_bundle), "-i", "-", "--batch", "1", *FAST, stdin="a\n北京\n".encode())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["options"]["input_texts"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--tokens", "1"], 2, "tokens is 1; expected an integer from 2 to 8192"),
        (["--tokens", "8193"], 2, "tokens is 8193; expected an integer from 2 to 8192"),
        (["--tokens", "five"], 2, "five"),
        (["--batch", "0"], 2, "batch is 0; expected an integer from 1 to 10000"),
        (["--repeats", "0"], 2, "repeats is 0; expected an integer of at least 1"),
        (["--warmup", "-1"], 2, "warmup is -1; expected an integer of at least 0"),
        (["--seconds", "nan"], 2, "seconds is nan; expected a positive number"),
        (["--seconds", "1", "--repeats", "1"], 2, "not both"),
        (["--tokens", "5", "-i", "-"], 2, "not both"),
        (["--threads", "0"], 2, "--threads"),
        (["--variant", "cpu-int3"], 4, "cpu-int3"),
        (["--provider", "cuda", "--variant", "portable-fp32"], 5, "cuda"),
        (["-i", "missing.txt"], 4, "missing.txt"),
        (["-i", "-"], 4, "there are no texts"),
    ],
)
def test_refusals(tiny_bundle: Path, args: list[str], code: int, says: str, tmp_path: Path):
    """Every refusal is a line of reason and its exit code, before anything is measured."""
    done = gte("--model", str(tiny_bundle), *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"total" not in done.stderr
    assert done.stdout == b""


@pytest.mark.slow
def test_a_bad_line_is_refused_by_its_number(tiny_bundle: Path, tmp_path: Path):
    """A text left out would change what is measured."""
    source = tmp_path / "in.jsonl"
    for line, reason in (
        ("not json", "not JSON"),
        ('{"text": null}', "NoneType"),
        ('{"text": "\\ud800"}', "surrogate"),
    ):
        source.write_text('{"text": "a"}\n' + line + "\n")
        done = gte("--model", str(tiny_bundle), "-i", str(source))
        assert done.returncode == 4
        assert "line 2" in done.stderr.decode()
        assert reason in done.stderr.decode()
