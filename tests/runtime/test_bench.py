"""`gte bench latency`: exact lengths, honest percentiles, stages that add up. No test looks at how long anything took."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte_runtime import Embedder
from gte_runtime.bench import latency
from gte_runtime.bench.latency import STAGES, Options, Work, measure, record, timed_encode, works
from gte_runtime.bench.statistics import percentile, summary
from gte_runtime.bench.texts import SENTENCES, Composer
from gte_runtime.errors import ConfigError
from gte_runtime.inference.plan import Budget
from gte_runtime.machine import processor
from gte_runtime.tokenization import Tokenizer

ROOT = Path(__file__).parents[2]
TOKENIZERS = [
    Tokenizer((ROOT / folder / "tokenizer.json").read_bytes())
    for folder in ("models/gte-mini", "tests/data/gte-tiny-random")
]
FAST = ("--repeats", "2", "--warmup", "0")


def gte(*args: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from gte_runtime.cli import main; main()", "bench", "latency", *args]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Embedder]:
    with Embedder.open(tiny_bundle, threads=1) as engine:
        yield engine


@given(st.lists(st.integers(0, 50), min_size=1, max_size=250), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_are_nearest_rank(values: list[int], percent: int):
    """The fast version finds what the definition says: the smallest value that so many per cent do not exceed."""
    slow = min(v for v in values if 100 * sum(other <= v for other in values) >= percent * len(values))
    assert percentile(values, percent) == slow
    assert percentile(values[::-1], percent) == slow


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=220))
def test_no_p99_of_few_values(values: list[int]):
    """Below a hundred values p99 would be the maximum by another name, so there is none."""
    found = summary(values)
    assert set(found) == {"p50", "p95", "p99", "mean"}
    assert (found["p99"] is None) == (len(values) < 100)
    assert found["mean"] == pytest.approx(np.mean(values))


@given(st.sampled_from(TOKENIZERS), st.integers(2, 900), st.integers(0, 100))
def test_texts_have_exactly_the_wanted_tokens(tokenizer: Tokenizer, tokens: int, number: int):
    """Any length from the special tokens alone, for any number; known words only, and the same ones each time."""
    text = Composer(tokenizer).text(tokens, number)
    ids = tokenizer.encode([text], max_length=10_000)[0].ids
    assert len(ids) == tokens
    assert not set(ids[1:-1].tolist()) & set(tokenizer.record.drop_ids)
    assert set(text.split()) <= set(SENTENCES.split())
    assert Composer(tokenizer).text(tokens, number) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_longest_text(tokenizer: Tokenizer):
    """A text of all the positions there are is exact, too."""
    assert len(tokenizer.encode([Composer(tokenizer).text(8192)], max_length=10_000)[0].ids) == 8192


def test_texts_of_a_large_vocabulary_are_multilingual():
    """With the default model's tokenizer, a text of 512 tokens holds many scripts, and neighbours differ."""
    composer = Composer(TOKENIZERS[0])
    texts = [composer.text(512, number) for number in range(8)]
    assert len(set(texts)) == 8
    for letter in "fиにअو모人":
        assert letter in texts[0]


def test_lengths_below_the_special_tokens_are_refused():
    with pytest.raises(ConfigError, match="at least 2, the special tokens"):
        Composer(TOKENIZERS[0]).text(1)


def test_a_tokenizer_without_our_words_is_refused():
    """Rather no text than one of another length."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordLevel

    data = Library(WordLevel({"<unk>": 0, "qqq": 1}, unk_token="<unk>")).to_str().encode()
    with pytest.raises(ConfigError, match="measure texts of your own"):
        Composer(Tokenizer(data)).text(16)


@pytest.mark.parametrize("variant", ["cpu-fp32", "portable-fp32"])
@pytest.mark.parametrize("budget", [Budget(), Budget(max_tokens=20)])
def test_the_timed_call_is_encode(tiny_bundle: Path, variant: str, budget: Budget):
    """What is timed gives what `encode` gives, bit for bit: nothing is measured that users do not run, nothing left out."""
    texts = ["", "北京", "the capital of China " * 9, "a", "the and of to " * 40]
    with Embedder.open(tiny_bundle, threads=1, variant=variant, budget=budget) as engine:
        call, found = timed_encode(engine, texts)
        expected = engine.encode(texts, max_length=engine.max_length)
    assert np.array_equal(found.dense, expected.dense)
    assert [v.as_dict() for v in found.sparse] == [v.as_dict() for v in expected.sparse]
    assert np.array_equal(found.tokens, expected.tokens)
    assert call.tokens == expected.tokens.sum()
    assert call.runs > 1 or budget == Budget()


def test_stages_add_up_to_the_total(engine: Embedder, monkeypatch: pytest.MonkeyPatch):
    """Between the first and the last look at the clock, every nanosecond belongs to one stage."""
    looks: list[int] = []

    def clock() -> int:
        looks.append(2 ** len(looks))
        return looks[-1]

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter_ns=clock))
    call, _ = timed_encode(engine, ["a", "the of " * 50])
    assert tuple(call.stages) == STAGES
    assert all(call.stages.values())
    assert call.total == sum(call.stages.values()) == looks[-1] - looks[0]


def test_calls_are_counted_after_the_warm_up(engine: Embedder, monkeypatch: pytest.MonkeyPatch):
    """Warm-up calls run and do not count; without repeats, time decides, but a few calls are always made."""
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(latency, "timed_encode", lambda engine, texts: (seen.append(tuple(texts)), None))
    work = Work(None, 2, ["a", "b", "c"])
    assert len(measure(engine, work, Options(repeats=4, warmup=3)).calls) == 4
    assert seen[:4] == [("a", "b"), ("c", "a"), ("b", "c"), ("a", "b")]
    assert len(seen) == 7
    ticks = itertools.count(0, 10**9)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter_ns=lambda: next(ticks)))
    assert len(measure(engine, work, Options(seconds=1, warmup=0)).calls) == latency.FEWEST_CALLS
    assert len(measure(engine, work, Options(seconds=20, warmup=0)).calls) > latency.FEWEST_CALLS


def test_cells_are_each_length_with_each_batch(engine: Embedder):
    """Every text of a cell has its length, repeated options count once, and lengths are checked before anything runs."""
    found = list(works(engine, Options(tokens=(5, 9, 5), batches=(1, 3, 1))))
    assert [(work.tokens, work.batch) for work in found] == [(5, 1), (5, 3), (9, 1), (9, 3)]
    for work in found:
        assert len(work.texts) == work.batch * latency.DISTINCT
        assert set(engine.encode(work.texts).tokens.tolist()) == {work.tokens}
    with pytest.raises(ConfigError, match="tokens is 9000; expected an integer from 2 to 8192"):
        works(engine, Options(tokens=(5, 9000)))
    with pytest.raises(ConfigError, match="no texts"):
        works(engine, Options(), [])
    with pytest.raises(ConfigError, match="leave tokens away"):
        works(engine, Options(tokens=(5,)), ["a"])


def test_a_record_holds_a_cell(engine: Embedder):
    """Rates and means follow from the calls, in milliseconds."""
    calls = [
        latency.Call(dict(zip(STAGES, (n, 2 * n, 3 * n, 4 * n), strict=True)), 50, 1, 2)
        for n in (1_000_000, 3_000_000)
    ]
    found = record(latency.Cell(Work(None, 5, []), calls))
    assert found["tokens_per_second"] == 2500
    assert (
        found["n"],
        found["batch"],
        found["tokens_per_call"],
        found["runs_per_call"],
        found["truncated"],
    ) == (2, 5, 50, 2, 2)
    assert found["ms"]["total"] == {"p50": 10, "p95": 30, "p99": None, "mean": 20}
    assert found["ms"]["collect"]["mean"] == 8


@pytest.mark.parametrize(
    "options",
    [
        {"batches": (0,)},
        {"batches": (True,)},
        {"batches": (10_001,)},
        {"seconds": 0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"repeats": 0},
        {"warmup": -1},
        {"warmup": 1.5},
    ],
)
def test_options_check_themselves(options: dict):
    with pytest.raises(ConfigError, match="expected"):
        Options(**options)


def test_processor_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The name the system gives; where there is none, at least the architecture."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.model()
    processor.CPUINFO.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: other\n")
    assert processor.model() == "Some CPU: 3 GHz"


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
        "tokens": [5, 70], "batch": [3], "seconds": None, "repeats": 100, "warmup": 3, "input_texts": None, "sparse": True,
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


def test_texts_of_stdin(tiny_bundle: Path):
    done = gte("--model", str(tiny_bundle), "-i", "-", "--batch", "1", *FAST, stdin="a\n北京\n".encode())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["options"]["input_texts"] == 2


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
