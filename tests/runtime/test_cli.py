"""The command line as a user calls it: stdout is data, stderr is talk, exit codes are documented."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from gte_runtime import Embedder, Reranker

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from gte_runtime.cli import main; main()"]


def gte(
    *args: str | bytes, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd
    )


@pytest.fixture
def model(tiny_bundle: Path) -> str:
    return str(tiny_bundle)


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_demo():
    """The demo runs on the default model, and says on stderr what kind of model that is."""
    done = gte("demo")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "what is the capital of China?" in text
    assert "中国的首都在哪儿" in text
    assert "Dense similarity" in text
    assert "Strongest sparse tokens" in text
    assert json.loads((ROOT / "models/gte-mini/config.json").read_text())["notice"] in done.stderr.decode()


def test_embed_arguments(model: str, tiny_bundle: Path):
    """Texts as arguments give one JSON object each, float for float those of the library."""
    done = gte("embed", "--model", model, "--sparse", "--dim", "32", "北京", "capital")
    assert done.returncode == 0, done.stderr
    with Embedder.open(tiny_bundle) as engine:
        expected = engine.encode(["北京", "capital"], dim=32)
    for row, found in enumerate(rows(done)):
        assert np.array_equal(np.array(found["dense"], np.float32), expected.dense[row])
        assert found["sparse"]["indices"] == expected.sparse[row].indices.tolist()
        assert np.array_equal(np.array(found["sparse"]["values"], np.float32), expected.sparse[row].values)
        assert found["index"] == row
        assert found["truncated"] is False


def test_embed_jsonl_file(model: str, tmp_path: Path):
    """A JSONL file keeps its ids; a BOM, CRLF, blank lines and a missing last newline are no rows."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "one"}\r\n\n{"id": 7, "text": "two"}')
    done = gte("embed", "--model", model, "-i", str(source))
    assert [(row["index"], row["id"]) for row in rows(done)] == [(0, "a"), (1, 7)]


def test_line_separators_are_text(model: str):
    """U+2028 and U+0085 inside a text do not break a row."""
    done = gte("embed", "--model", model, stdin="one\u2028still one\x85still\ntwo\n".encode())
    assert len(rows(done)) == 2


def test_bad_rows_are_named_and_the_rest_is_done(model: str, tmp_path: Path):
    """Rows that cannot be embedded are named by line, the others are written, and the exit code is 3."""
    source = tmp_path / "in.jsonl"
    lines = [
        b'{"text": "one"}',
        b"not json",
        b'{"other": 1}',
        b'{"text": null}',
        b'{"text": "\\ud800"}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "two"}',
    ]
    source.write_bytes(b"\n".join(lines) + b"\n")
    done = gte("embed", "--model", model, "-i", str(source))
    assert done.returncode == 3
    assert [row["index"] for row in rows(done)] == [0, 7]
    talk = done.stderr.decode()
    reasons = (
        "not JSON",
        "no field 'text'",
        "NoneType",
        "surrogate",
        "expected an object",
        "not valid UTF-8 at byte 10",
    )
    for line, reason in enumerate(reasons, 2):
        assert reason in next(said for said in talk.splitlines() if f"line {line}: " in said)
    assert "6 of 8 rows were rejected" in talk


@pytest.mark.parametrize("form", ["npy", "npz", "parquet", "jsonl"])
@pytest.mark.parametrize("to_file", [True, False])
def test_formats(model: str, tiny_bundle: Path, tmp_path: Path, form: str, to_file: bool):
    """Every format, to a file and through a pipe, holds the same vectors."""
    texts = ["one", "北京", ""]
    target = tmp_path / f"out.{form}"
    where = ["-o", str(target)] if to_file else ["--format", form]
    done = gte("embed", "--model", model, *(["--sparse"] if form != "npy" else []), *where, *texts)
    assert done.returncode == 0, done.stderr
    data = target.read_bytes() if to_file else done.stdout
    with Embedder.open(tiny_bundle) as engine:
        expected = engine.encode(texts)
    if form == "npy":
        assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), expected.dense)
    elif form == "npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            assert np.array_equal(stored["dense"], expected.dense)
            assert stored["tokens"].tolist() == expected.tokens.tolist()
        assert scipy.sparse.load_npz(io.BytesIO(data)).shape == (3, engine.manifest.architecture.vocab_size)
    elif form == "parquet":
        table = pq.read_table(io.BytesIO(data))
        assert np.array_equal(np.array(table["dense"].to_pylist(), np.float32), expected.dense)
        assert table["sparse_indices"].to_pylist() == [v.indices.tolist() for v in expected.sparse]
    else:
        found = [json.loads(line) for line in data.splitlines()]
        assert np.array_equal(np.array([row["dense"] for row in found], np.float32), expected.dense)
    if to_file:
        assert target.stat().st_mode & 0o777 == 0o644


def test_empty_input(model: str, tmp_path: Path):
    """No rows give a valid empty file."""
    target = tmp_path / "out.npy"
    assert gte("embed", "--model", model, "-o", str(target)).returncode == 0
    assert np.load(target).shape == (0, 64)


def test_score(model: str):
    """Documents come best first, with the score of the library."""
    done = gte("score", "--model", model, "--format", "jsonl", "北京", "capital of China", "北京")
    scores = rows(done)
    assert scores[0]["document"] == "北京"
    assert scores[0]["score"] >= scores[1]["score"]


def test_tokens(model: str):
    """The table lists tokens in order; JSONL is the authors' form."""
    table = gte("tokens", "--model", model, "北京").stdout.decode()
    assert "北" in table
    assert "<s>" in table
    (weights,) = rows(gte("tokens", "--model", model, "--format", "jsonl", "北京"))
    assert list(weights) == ["", "北", "京"]


def test_build_verify_info(golden, tmp_path: Path):
    """A checkpoint becomes a bundle that verifies and describes itself."""
    target = tmp_path / "bundle"
    variants = ("--variant", "cpu-fp32", "--variant", "portable-fp32")
    done = gte("build", str(golden.checkpoint), str(target), "--graphs", str(golden.graphs), *variants)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert b"agrees with the oracle" in done.stderr
    verified = gte("verify", str(target))
    assert verified.returncode == 0
    assert b"cpu-fp32: largest distance" in verified.stdout
    facts = json.loads(gte("info", str(target), "--json").stdout)
    assert facts["variants"]["cpu-fp32"]["batch_invariant"] is True
    assert facts["variants"]["portable-fp32"]["batch_invariant"] is False
    weights = target / "weights-fp32.bin"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    broken = gte("verify", str(target))
    assert broken.returncode == 4
    assert b"weights-fp32.bin" in broken.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["nothing"], 2, "No such command"),
        (["embed", "--dim", "0", "x"], 2, "dim is 0"),
        (["embed", "--dim", "abc", "x"], 2, "abc"),
        (["embed", "--threads", "0", "x"], 2, "threads"),
        (["embed", "--max-length", "2", "x"], 2, "max_length is 2"),
        (["embed", "--no-dense", "x"], 2, "nothing to write"),
        (["embed", "-i", "in.txt", "x"], 2, "not both"),
        (["embed", "-i", "missing.txt"], 4, "missing.txt"),
        (["embed", "-i", "."], 4, "directory"),
        (["embed", "-o", "missing/out.jsonl", "x"], 6, "out.jsonl"),
        (["embed", "--model", "missing", "x"], 4, "neither a bundle directory nor a model that is here"),
        (["embed", "-i", "."], 4, "gte: . is a directory"),
        (["embed", "-i", "https://x.example/texts.jsonl"], 4, "a URL is not downloaded"),
        (["embed", "-o", "n" * 300, "x"], 6, "File name too long"),
        (["build", "missing", "out"], 4, "missing is not there; a checkpoint is a directory"),
        (["verify", "missing"], 4, "neither a bundle directory nor a model that is here"),
        (["embed", b"a\xffb"], 2, "not valid UTF-8"),
    ],
)
def test_refusals(args: list, code: int, says: str, tmp_path: Path):
    """Every refusal is a line of reason and its exit code; nothing is written, and no traceback shown."""
    done = gte(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert done.stdout == b""
    assert list(tmp_path.iterdir()) == []


def test_provider_exit_code(model: str):
    """A provider that is not there is exit 5."""
    done = gte("embed", "--model", model, "--provider", "cuda", "--variant", "portable-fp32", "x")
    assert done.returncode == 5, done.stderr


def test_a_reader_that_leaves(model: str):
    """`gte embed | head` ends without a traceback."""
    program = f"{sys.executable} -c 'from gte_runtime.cli import main; main()'"
    command = f"{program} embed --model {model} | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], input=b"text\n" * 3000, capture_output=True, timeout=120, check=False
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert done.returncode == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk(model: str):
    """A write that fails is exit 6 with a line of reason."""
    done = gte("embed", "--model", model, "-o", "/dev/full", "x")
    assert done.returncode == 6
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_failed_run_leaves_the_old_file(model: str, tmp_path: Path):
    """A file is replaced when its successor is whole, not before."""
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    assert gte("embed", "--model", model, "--max-length", "1", "-o", str(target), "x").returncode == 2
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_shipped_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The default model is built into the cache at first use, and opened from there later."""
    monkeypatch.setenv("GTE_CACHE", str(tmp_path))
    with Embedder.open("gte-mini"):
        (bundle,) = (tmp_path / "bundles").iterdir()
        before = bundle.stat().st_ino
    with Embedder.open("gte-mini"):
        assert bundle.stat().st_ino == before
    shutil.rmtree(tmp_path / "bundles")
    with Embedder.open("gte-mini") as engine:
        assert len(engine.encode("text")) == 1


def test_rerank(reranker_bundle: Path):
    """Documents from arguments, best first, as a table and as JSONL."""
    model = ("--model", str(reranker_bundle))
    done = gte("rerank", "capital of China", "Peking", "fox", "sort", "--format", "jsonl", *model)
    assert done.returncode == 0, done.stderr
    found = rows(done)
    with Reranker.open(reranker_bundle) as reranker:
        expected = reranker.rank("capital of China", ["Peking", "fox", "sort"], return_documents=True)
    assert [(row["index"], row["document"]) for row in found] == [
        (row.index, row.document) for row in expected
    ]
    assert [row["score"] for row in found] == pytest.approx([row.score for row in expected], abs=1e-6)
    table = (
        gte("rerank", "capital of China", "Peking", "fox", "sort", "--top-k", "2", "--sigmoid", *model)
        .stdout.decode()
        .splitlines()
    )
    assert [line.split()[1] for line in table] == [row.document for row in expected[:2]]
    assert all(0 < float(line.split()[0]) < 1 for line in table)


def test_rerank_from_stdin(reranker_bundle: Path):
    """Lines of JSON keep their ids; what holds no document is named, and the rest is ranked."""
    lines = b'{"id": "a", "text": "Peking"}\n{"id": "b"}\n{"text": "\\ud800"}\n{"id": "c", "text": "fox"}\n'
    done = gte("rerank", "China", "--format", "jsonl", "--model", str(reranker_bundle), stdin=lines)
    assert done.returncode == 3
    assert {(row["index"], row["id"]) for row in rows(done)} == {(0, "a"), (3, "c")}
    talk = done.stderr.decode()
    assert "line 2: no field 'text'" in talk
    assert "line 3: lone surrogate" in talk
    assert "2 of 4 documents were rejected" in talk


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["", "a"], 2, "an empty query"),
        (["q", "a", "--max-length", "4"], 2, "max_length is 4"),
        (["q", "a", "--top-k", "0"], 2, "top-k"),
        (["q", "a", "-i", "file"], 2, "not both"),
        (["q", "dog " * 99, "--max-length", "20", "--no-truncate"], 2, "the limit is 20"),
        (["q", "a", "--model", "gte-mini"], 2, "is an embedding model"),
        (
            ["q", "a", "--model", "gte-multilingual-reranker-base"],
            4,
            "`gte pull gte-multilingual-reranker-base`",
        ),
    ],
)
def test_rerank_refusals(reranker_bundle: Path, args: list[str], code: int, says: str):
    done = gte("rerank", *(args if "--model" in args else [*args, "--model", str(reranker_bundle)]))
    assert done.returncode == code, done.stderr
    assert says in done.stderr.decode()
    assert done.stdout == b""


def test_verify_a_reranker(reranker_bundle: Path):
    done = gte("verify", str(reranker_bundle))
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-int8: largest difference" in done.stdout


def test_embed_with_a_prompt(model: str):
    """A name that the model does not have is a matter of usage."""
    done = gte("embed", "--prompt-name", "query", "--model", model, "a")
    assert done.returncode == 2
    assert b"has no prompt 'query'" in done.stderr


def test_closed_streams(model: str, tmp_path: Path):
    """Data for a stdout that is closed is exit 6; talk for a closed stderr never gets among the data."""
    command = f"{sys.executable} -c 'from gte_runtime.cli import main; main()'"

    def shell(rest: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-c", f"{command} {rest}"], capture_output=True, timeout=120, check=False, cwd=tmp_path
        )

    done = shell(f"embed --model {model} x >&-")
    assert (done.returncode, done.stderr) == (6, b"gte: Bad file descriptor\n")
    assert shell(f"embed --model {model} -o out.npy x >&-").returncode == 0
    assert np.load(tmp_path / "out.npy").shape == (1, 64)
    done = shell(f"embed --model {model} --dim 5 x 2>&-")  # a warning, and a row
    assert (done.returncode, len(rows(done))) == (0, 1)


def test_the_input_is_no_output(model: str, tmp_path: Path):
    """Not by its name, nor through a link, nor as stdin: texts would be replaced by their vectors."""
    texts, link = tmp_path / "texts.txt", tmp_path / "link.txt"
    texts.write_text("one\ntwo\n")
    link.symlink_to(texts)
    for output in (texts, link):
        done = gte("embed", "--model", model, "-i", str(texts), "-o", str(output))
        assert done.returncode == 6
        assert b"is the input, which would be lost" in done.stderr
    command = [
        sys.executable,
        "-c",
        "from gte_runtime.cli import main; main()",
        "embed",
        "--model",
        model,
        "-o",
        str(texts),
    ]
    with texts.open("rb") as stdin:
        assert (
            subprocess.run(command, stdin=stdin, capture_output=True, timeout=120, check=False).returncode
            == 6
        )
    assert texts.read_text() == "one\ntwo\n"


def test_a_link_stays_a_link(model: str, tmp_path: Path):
    """What a link leads to is replaced, with its mode; a new file has what the umask leaves."""
    target, link = tmp_path / "target.npy", tmp_path / "link.npy"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    assert gte("embed", "--model", model, "-o", str(link), "x").returncode == 0
    assert link.is_symlink()
    assert np.load(target).shape == (1, 64)
    assert target.stat().st_mode & 0o777 == 0o640
    old = os.umask(0o077)
    try:
        assert gte("embed", "--model", model, "-o", str(tmp_path / "own.npy"), "x").returncode == 0
    finally:
        os.umask(old)
    assert (tmp_path / "own.npy").stat().st_mode & 0o777 == 0o600


def test_appended_output(model: str, tmp_path: Path):
    """`>>` puts a whole file behind what is there, although its header is known last."""
    together = tmp_path / "both"
    together.write_bytes(b"old")
    with together.open("ab") as file:
        command = [
            sys.executable,
            "-c",
            "from gte_runtime.cli import main; main()",
            "embed",
            "--model",
            model,
            "--format",
            "npy",
            "x",
        ]
        assert subprocess.run(command, stdout=file, timeout=120, check=False).returncode == 0
    assert np.load(io.BytesIO(together.read_bytes().removeprefix(b"old"))).shape == (1, 64)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_odd_ids(model: str, tmp_path: Path, form: str):
    """An id that UTF-8 cannot hold, or that is no JSON, fails its own row."""
    lines = b'{"id": "\\ud800", "text": "a"}\n{"id": ["\\udfff"], "text": "b"}\n{"id": NaN, "text": "c"}\n{"id": ["d"], "text": "d"}\n'
    target = tmp_path / "out"
    done = gte("embed", "--model", model, "--format", form, "-o", str(target), stdin=lines)
    assert done.returncode == 3
    talk = done.stderr.decode().splitlines()
    assert "line 1: the id holds half a surrogate pair" in talk[0]
    assert "line 2: the id holds half a surrogate pair" in talk[1]
    assert "line 3: not JSON: NaN is no number of JSON" in talk[2]
    assert "3 of 4" in talk[3]


def test_stdin_is_read_as_a_file_is(model: str, tmp_path: Path):
    """A blank line is an empty text in either, so that rows and lines stay side by side; only JSONL has lines that are no rows."""
    plain = b"one\n\n{two\n"
    (tmp_path / "texts").write_bytes(plain)
    piped = rows(gte("embed", "--model", model, stdin=plain))
    assert [row["index"] for row in piped] == [0, 1, 2]
    assert piped == rows(gte("embed", "--model", model, "-i", str(tmp_path / "texts")))
    done = gte("embed", "--model", model, stdin=b'\n{"text": "one"}\n\nplain\n')
    assert [row["index"] for row in rows(done)] == [0]
    assert b"line 4: not JSON: Expecting value at column 1" in done.stderr


def test_a_pipe_is_answered_when_it_pauses(model: str):
    """A line in, a line out, and on; rows and lines are counted through. What stays open is not taken for the end."""
    command = [*COMMAND, "embed", "--model", model, "--threads", "1"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONUNBUFFERED": ""}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(100, process.kill)
        timer.start()
        found = []
        for sent, count in ((b"one\n", 1), (b"two\n\xff\nthr", 1), (b"ee\nfour\n", 2)):
            process.stdin.write(sent)
            process.stdin.flush()
            found += [json.loads(process.stdout.readline()) for _ in range(count)]
        out, errors = process.communicate(timeout=100)
        timer.cancel()
    assert (process.returncode, out) == (3, b"")
    assert [row["index"] for row in found] == [0, 1, 3, 4]
    assert b"line 3: not valid UTF-8" in errors
    assert b"1 of 5 rows" in errors
    together = rows(gte("embed", "--model", model, "--threads", "1", stdin=b"one\ntwo\n\xff\nthree\nfour\n"))
    assert found == together


def test_who_needs_all_rows_waits_for_them(reranker_bundle: Path):
    """A pipe that pauses has not ended."""
    command = [*COMMAND, "rerank", "China", "--format", "jsonl", "--model", str(reranker_bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        time.sleep(1)
        out, _ = process.communicate(b"two\n", timeout=100)
    assert len(out.splitlines()) == 2


def test_variants_of_the_shipped_model():
    """By name, each is built when it is first asked for."""
    done = gte("embed", "--variant", "cpu-int8", "x")
    assert (done.returncode, len(rows(done))) == (0, 1), done.stderr
    done = gte("embed", "--variant", "cpu-int3", "x")
    assert done.returncode == 2
    assert b"no graph for variant 'cpu-int3'; gte-mini has cpu-fp32" in done.stderr


def test_what_is_no_checkpoint(model: str, tmp_path: Path):
    """`gte build` says what it was given instead."""
    (tmp_path / "file").touch()
    for source, what in (
        (model, "is a bundle already"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "none", "is not there"),
    ):
        done = gte("build", str(source), str(tmp_path / "out"))
        assert done.returncode == 4
        assert what in done.stderr.decode()
    assert not (tmp_path / "out").exists()


def test_verify_by_name():
    """What `embed` takes by its name, `verify` takes, too."""
    done = gte("verify", "gte-mini")
    assert done.returncode == 0, done.stderr
    assert b"self-check cpu-fp32" in done.stdout


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The shipped model is built there at first: the error says which directory that is about."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GTE_CACHE", str(tmp_path / "file"))
    done = gte("embed", "x")
    assert done.returncode == 6
    assert b"GTE_CACHE names another directory" in done.stderr
    assert done.stderr.count(b"\n") == 1
