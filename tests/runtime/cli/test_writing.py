"""Outputs of the command line: every format, whole or not at all, to files, links and pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from command_line import gte, rows

from gte_runtime import Embedder


@pytest.mark.slow
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


def test_failed_run_leaves_the_old_file(model: str, tmp_path: Path):
    """A file is replaced when its successor is whole, not before."""
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    assert gte("embed", "--model", model, "--max-length", "1", "-o", str(target), "x").returncode == 2
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_odd_ids(model: str, tmp_path: Path, form: str):
    """An id that UTF-8 cannot hold, or that is no JSON, fails its own row."""
    lines = (
        b'{"id": "\\ud800", "text": "a"}\n{"id": ["\\udfff"], "text": "b"}\n'
        b'{"id": NaN, "text": "c"}\n{"id": ["d"], "text": "d"}\n'
    )
    target = tmp_path / "out"
    done = gte("embed", "--model", model, "--format", form, "-o", str(target), stdin=lines)
    assert done.returncode == 3
    talk = done.stderr.decode().splitlines()
    assert "line 1: the id holds half a surrogate pair" in talk[0]
    assert "line 2: the id holds half a surrogate pair" in talk[1]
    assert "line 3: not JSON: NaN is no number of JSON" in talk[2]
    assert "3 of 4" in talk[3]
