"""Jobs that are stopped, damaged, resumed, and asked for what they cannot do."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gte_runtime import Embedder
from gte_runtime.errors import InputFileError, OutputError, ResumeMismatchError
from gte_runtime.jobs import journal, run
from gte_runtime.jobs.operator import Place, Wanted
from gte_runtime.jobs.row import Fields
from gte_runtime.jobs.run import Progress, Request, run_job, status

WORDS = ["one", "two", "北京", "the capital", "Straße", "x" * 30]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WINDOW", 16)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    chance = random.Random(3)
    path = tmp_path / "in.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(200):
            text = " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
            file.write(json.dumps({"id": f"row {n}", "text": text, "n": n}) + "\n")
    return path


@pytest.fixture
def request_(tiny_bundle: Path, corpus: Path, tmp_path: Path) -> Request:
    return Request(
        (str(corpus),),
        tmp_path / "job",
        str(tiny_bundle),
        Fields(keep=("n",)),
        wanted=Wanted(sparse=True),
        place=Place(threads=1),
        rows_per_part=64,
    )


def nothing(progress: Progress) -> None:
    pass


def rows_of(directory: Path) -> list[dict[str, Any]]:
    parts = sorted(directory.glob("part-*.parquet"))
    found: list[dict[str, Any]] = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
    return found


def test_a_job_gives_what_encode_gives(request_: Request, corpus: Path):
    """Bit for bit, in input order, with ids and carried fields; and says so in its summary."""
    told: list[Progress] = []
    summary = run_job(request_, told.append)
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    with Embedder.open(request_.model, threads=1) as gte:
        out = gte.encode([row["text"] for row in rows], sparse=True)
    assert out.dense is not None
    assert out.sparse is not None
    found = rows_of(request_.directory)
    assert [(row["index"], row["id"], row["n"]) for row in found] == [(n, f"row {n}", n) for n in range(200)]
    np.testing.assert_array_equal(np.array([row["dense"] for row in found], np.float32), out.dense)
    assert [row["sparse_indices"] for row in found] == [vector.indices.tolist() for vector in out.sparse]
    assert [np.float32(row["sparse_values"]).tolist() for row in found] == [
        v.values.tolist() for v in out.sparse
    ]
    assert [row["tokens"] for row in found] == out.tokens.tolist()
    assert (summary["rows"], summary["written"], summary["rejected"]) == (200, 200, 0)
    assert summary["tokens"] == out.tokens.sum()
    assert [one.rows for one in told] == [0, 64, 128, 192, 200]
    assert {one.total for one in told} == {200}
    assert (request_.directory / "_SUCCESS").exists()


class Killed(BaseException):
    """As if the process had ended there."""


CRASHES = {
    "the write of a part": ("gte_runtime.jobs.journal.hashlib.file_digest", 2),
    "its flush": ("gte_runtime.jobs.journal.os.fsync", 3),
    "its rename": ("gte_runtime.jobs.journal.os.replace", 2),
    "the line of the journal": ("gte_runtime.jobs.journal.asdict", 2),
    "the flush of the journal": ("gte_runtime.jobs.journal.os.fsync", 4),
    "the summary": ("gte_runtime.jobs.journal.os.replace", 7),
    "the last file": ("gte_runtime.jobs.journal.os.replace", 8),
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_anywhere(request_: Request, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Before or after each step of writing: going on gives every row once, as an unbroken job does."""
    run_job(unbroken := replace(request_, directory=tmp_path / "unbroken"), nothing)
    name, count = CRASHES[where]
    for after in (False, True):
        directory = tmp_path / f"job {after}"
        calls = 0

        def crashing(*args: Any, real: Any, after: bool = after, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            result = real(*args, **options) if calls != count or after else None
            if calls == count:
                raise Killed
            return result

        with monkeypatch.context() as patch:
            module, _, attribute = name.rpartition(".")
            owner: Any = journal
            for part in module.removeprefix("gte_runtime.jobs.journal").split("."):
                owner = getattr(owner, part) if part else owner
            real = getattr(owner, attribute)
            patch.setattr(owner, attribute, lambda *a, real=real, **o: crashing(*a, real=real, **o))
            # A process that is killed removes nothing.
            patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
            with pytest.raises(Killed):
                run_job(replace(request_, directory=directory), nothing)
        run_job(replace(request_, directory=directory), nothing)
        assert rows_of(directory) == rows_of(unbroken.directory)
        assert not list(directory.glob(".*.unfinished"))


def test_a_torn_line_of_the_journal(request_: Request):
    """Its part is made again, and the lines after it begin at their beginning."""
    run_job(request_, nothing)
    before = rows_of(request_.directory)
    path = request_.directory / "journal.jsonl"
    (request_.directory / "_SUCCESS").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    told: list[Progress] = []
    run_job(request_, told.append)
    assert told[0].resumed == 192
    assert rows_of(request_.directory) == before
    assert [json.loads(line)["part"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_a_damaged_part(request_: Request, how: str):
    """It is found, and only it is made again."""
    run_job(request_, nothing)
    before = rows_of(request_.directory)
    part = request_.directory / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        part.unlink()
    else:
        part.write_bytes(data[:-1] if how == "cut" else data)
    (request_.directory / "_SUCCESS").unlink()
    told: list[Progress] = []
    run_job(request_, told.append)
    assert (told[0].resumed, told[-1].rows) == (136, 200)
    assert rows_of(request_.directory) == before


def test_a_finished_job_does_nothing(request_: Request, monkeypatch: pytest.MonkeyPatch):
    """Its summary is given again."""
    first = run_job(request_, nothing)
    stamp = (request_.directory / "part-00000.parquet").stat().st_mtime_ns
    assert run_job(request_, nothing) == first
    assert (request_.directory / "part-00000.parquet").stat().st_mtime_ns == stamp


CHANGES: dict[str, Callable[[Request], Request]] = {
    "dim was null and is 36": lambda r: replace(r, wanted=replace(r.wanted, dim=36)),
    "sparse was true and is false": lambda r: replace(r, wanted=replace(r.wanted, sparse=False)),
    "keep was": lambda r: replace(r, fields=Fields()),
    "rows_per_part was 64 and is 32": lambda r: replace(r, rows_per_part=32),
    "variant was": lambda r: replace(r, place=replace(r.place, variant="cpu-int8")),
}


@pytest.mark.parametrize("difference", CHANGES)
def test_a_job_of_other_options(request_: Request, difference: str):
    """What differs is named, and nothing is touched; --restart begins anew."""
    run_job(request_, nothing)
    before = sorted(path.name for path in request_.directory.iterdir())
    changed = CHANGES[difference](request_)
    with pytest.raises(ResumeMismatchError, match=f"{difference}.*--restart"):
        run_job(changed, nothing)
    assert sorted(path.name for path in request_.directory.iterdir()) == before
    run_job(replace(changed, restart=True), nothing)
    assert len(rows_of(request_.directory)) == 200


def test_another_input(request_: Request, corpus: Path, tmp_path: Path):
    """Changed, missing or new files are named."""
    run_job(request_, nothing)
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "a", "text": "new", "n": 1}\n')
    with pytest.raises(ResumeMismatchError, match=r"input .*other\.jsonl is new"):
        run_job(replace(request_, sources=(str(corpus), str(other))), nothing)
    with corpus.open("a") as file:
        file.write('{"id": "b", "text": "more", "n": 1}\n')
    with pytest.raises(ResumeMismatchError, match=r"input .*in\.jsonl has changed"):
        run_job(request_, nothing)


def test_another_model(request_: Request, mini_bundle: Path):
    run_job(request_, nothing)
    with pytest.raises(ResumeMismatchError, match="manifest was"):
        run_job(replace(request_, model=str(mini_bundle)), nothing)


def test_restart_touches_only_what_a_job_wrote(request_: Request):
    run_job(request_, nothing)
    (request_.directory / "notes.txt").write_text("mine")
    run_job(replace(request_, restart=True), nothing)
    assert (request_.directory / "notes.txt").read_text() == "mine"


def test_a_directory_that_is_no_job(request_: Request):
    """Nothing is written beside the user's files."""
    request_.directory.mkdir()
    (request_.directory / "notes.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(OutputError, match=r"holds files that are no job, such as 'notes\.txt'"):
            run_job(replace(request_, restart=restart), nothing)
    assert {path.name for path in request_.directory.iterdir()} <= {"notes.txt", ".lock"}
    with pytest.raises(OutputError, match="is a file; name a directory"):
        run_job(replace(request_, directory=request_.directory / "notes.txt"), nothing)
    with pytest.raises(OutputError, match=r"the directory of .* is missing"):
        run_job(replace(request_, directory=request_.directory / "a" / "b"), nothing)


def test_two_jobs_in_one_directory(request_: Request):
    """The second is refused, and says who has it; a lock that a killed process left is free."""
    request_.directory.mkdir()
    with (
        journal.locked(request_.directory),
        pytest.raises(OutputError, match=f"is in use by process {os.getpid()} on "),
    ):
        run_job(request_, nothing)
    run_job(request_, nothing)


BAD_ROWS = {
    b"not json": "not JSON",
    b'{"id": "x", "text": null, "n": 1}': "missing",
    b'{"id": "x", "text": 5, "n": 1}': "a number",
    b'{"id": "x", "text": ["a"], "n": 1}': "a list",
    b'{"id": "x", "n": 1}': "no field 'text'",
    b'{"id": "x", "text": "a", "n": "one"}': "n is str",
    b'{"id": "x", "text": "\\udc00", "n": 1}': "surrogate",
    b'{"id": "x", "text": "\xff", "n": 1}': "UTF-8",
    b'["a"]': "expected an object",
}


def test_bad_rows(request_: Request, corpus: Path):
    """Each is in rejects.jsonl with its file, line and reason, and without its text; the counts add up."""
    lines = corpus.read_bytes().splitlines()
    places = {20 + 15 * n: line for n, line in enumerate(BAD_ROWS)}
    for place, line in places.items():
        lines.insert(place, line)
    corpus.write_bytes(b"\n".join(lines))
    summary = run_job(request_, nothing)
    assert (summary["rows"], summary["written"], summary["rejected"]) == (209, 200, 9)
    rejected = [json.loads(line) for line in (request_.directory / "rejects.jsonl").read_text().splitlines()]
    assert [(row["index"], row["line"], row["file"]) for row in rejected] == [
        (place, place + 1, "in.jsonl") for place in places
    ]
    for row, reason in zip(rejected, BAD_ROWS.values(), strict=True):
        assert reason in row["reason"]
    good = [index for index in range(209) if index not in places]
    assert [row["index"] for row in rows_of(request_.directory)] == good
    with pytest.raises(
        InputFileError, match=r"rows were rejected, and 2 are allowed; the last one: in\.jsonl line"
    ):
        run_job(replace(request_, max_rejected=2, restart=True), nothing)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_types_of_vectors(request_: Request, dtype: str):
    """Against numpy on what encode gives."""
    run_job(replace(request_, wanted=Wanted(dim=36, dtype=dtype)), nothing)
    texts = [json.loads(line)["text"] for line in Path(request_.sources[0]).read_text().splitlines()]
    with Embedder.open(request_.model, threads=1) as gte:
        dense = gte.encode(texts, sparse=False, dim=36).dense
    assert dense is not None
    expected: Any = {
        "float32": dense,
        "float16": dense.astype(np.float16),
        "int8": np.round(dense * 127).astype(np.int8),
        "binary": np.packbits(np.pad(dense > 0, ((0, 0), (0, 4))), axis=1),
    }[dtype]
    found = np.array([row["dense"] for row in rows_of(request_.directory)])
    np.testing.assert_array_equal(found.astype(expected.dtype), expected)


def test_the_largest_weights(request_: Request):
    run_job(replace(request_, wanted=Wanted(dense=False, sparse=True, sparse_top=2)), nothing)
    found = rows_of(request_.directory)
    assert {len(row["sparse_values"]) for row in found} <= {0, 1, 2}
    assert "dense" not in found[0]


def test_status(request_: Request):
    """Of a job that was stopped, and of one that is done."""

    def stop(progress: Progress) -> None:
        if progress.rows >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(request_, stop)
    found = status(request_.directory)
    assert (found["finished"], found["parts"], found["rows"]) == (False, 2, 128)
    run_job(request_, nothing)
    assert status(request_.directory)["finished"]
    with pytest.raises(OutputError, match="holds no job"):
        status(request_.directory.parent)


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from gte_runtime.cli import main
main()
"""


def command(request: Request) -> list[str]:
    sparse = ["--sparse", "--keep", "n", "--threads", "1", "--rows-per-part", str(request.rows_per_part)]
    return [
        "job",
        "run",
        "-i",
        *request.sources,
        "-o",
        str(request.directory),
        "--model",
        request.model,
        *sparse,
    ]


@pytest.mark.slow
def test_a_full_disk(request_: Request, tmp_path: Path):
    """Exit code 6, the space that is needed, no partial file; going on completes the job."""
    run_job(unbroken := replace(request_, directory=tmp_path / "unbroken"), nothing)
    size = (unbroken.directory / "part-00000.parquet").stat().st_size
    for limit in (10, 2000, size - 1, size + 100):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *command(request_)],
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == (6 if limit != size + 100 else 0), done.stderr
        assert b"Traceback" not in done.stderr
        if done.returncode:
            assert b"File too large" in done.stderr
        assert not [path for path in request_.directory.iterdir() if path.name.endswith(".unfinished")]
    assert len(rows_of(request_.directory)) == 200


@pytest.mark.slow
def test_kills_at_any_moment(request_: Request, corpus: Path, tmp_path: Path):
    """SIGKILL again and again: every row once, in order, with the bits of an unbroken job."""
    corpus.write_bytes(corpus.read_bytes() * 5)
    request_ = replace(request_, rows_per_part=32)
    run_job(unbroken := replace(request_, directory=tmp_path / "unbroken"), nothing)
    chance, kills = random.Random(5), 0
    for _ in range(60):
        process = subprocess.Popen(
            [sys.executable, "-c", "from gte_runtime.cli import main; main()", *command(request_)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        parts = len(list(request_.directory.glob("part-*"))) if request_.directory.exists() else 0
        deadline, wanted = time.monotonic() + 60, chance.randint(1, 6)
        while time.monotonic() < deadline and process.poll() is None:
            now = len(list(request_.directory.glob("part-*"))) if request_.directory.exists() else 0
            if now - parts >= wanted:
                time.sleep(chance.random() * 0.02)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        code = process.wait(timeout=60)
        kills += code == -signal.SIGKILL
        if code == 0:
            break
    assert code == 0
    assert kills > 5
    assert rows_of(request_.directory) == rows_of(unbroken.directory)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(request_: Request, corpus: Path, number: signal.Signals, code: int):
    """The signal's own exit code, what to do next on stderr, and going on completes the job."""
    corpus.write_bytes(corpus.read_bytes() * 20)
    process = subprocess.Popen(
        [sys.executable, "-c", "from gte_runtime.cli import main; main()", *command(request_)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list(request_.directory.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (code, 0)
    if process.returncode:
        assert b"the same command goes on" in errors
        assert b"Traceback" not in errors
    assert len(rows_of(request_.directory)) <= 4000
    run_job(request_, nothing)
    assert len(rows_of(request_.directory)) == 4000


def test_the_reader_is_two_windows_ahead(request_: Request, corpus: Path):
    """So memory does not grow with the input."""
    corpus.write_bytes(corpus.read_bytes() * 5)
    ahead: list[int] = []

    def watched(operator: Any, tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        read = 0

        def counted() -> Iterator[tuple[int, Any]]:
            nonlocal read
            for each in tables:
                read += 1
                yield each

        for done, part in enumerate(run.overlapped(operator, counted()), 1):
            ahead.append(read - done * request_.rows_per_part // run.WINDOW)
            yield part

    run_job(request_, nothing, watched)
    assert len(ahead) > 10
    assert max(ahead) <= 2


def test_ids_of_several_types(request_: Request, corpus: Path):
    """Integers stay integers; where the first rows mix them with strings, the column holds strings."""
    corpus.write_text('{"id": 1, "text": "a", "n": 0.5}\n{"id": 2, "text": "b", "n": 1}\n')
    run_job(request_, nothing)
    assert [(row["id"], row["n"]) for row in rows_of(request_.directory)] == [(1, 0.5), (2, 1.0)]
    corpus.write_text('{"id": 1, "text": "a", "n": {"a": [1]}}\n{"id": "x", "text": "b", "n": null}\n')
    run_job(replace(request_, restart=True), nothing)
    assert [(row["id"], row["n"]) for row in rows_of(request_.directory)] == [
        ("1", '{"a": [1]}'),
        ("x", None),
    ]


def test_a_short_dimension_is_told_once(request_: Request):
    """Not once for every window."""
    with pytest.warns(UserWarning, match="dim=12 is below 32") as told:
        run_job(replace(request_, wanted=Wanted(dim=12)), nothing)
    assert len(told) == 1
