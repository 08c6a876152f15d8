"""Pairs to scores: against the oracle, in any company, and what is refused."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from invariance import assert_as_alone
from reranking import GRAPHS, RERANKER, VARIANTS
from spoil import change_manifest
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, processors

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.bundle.directory import Bundle
from gte_runtime.checkpoint.tensors import Checkpoint
from gte_runtime.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    InputError,
    InputTooLongError,
    SelfCheckFailed,
)
from gte_runtime.inference.batch import Batch
from gte_runtime.inference.engine import Engine
from gte_runtime.inference.session import NOTHING, Outputs
from gte_runtime.proof.oracle import forward
from gte_runtime.tokenization import Tokenizer
from gte_runtime.tokenization.tokenizer import longest_first

WORDS = [
    "What",
    "is",
    "the",
    "capital",
    "of",
    "China",
    "sort",
    "numbers",
    "Python",
    "fox",
    "lazy",
    "dog",
    "北京",
    "是",
    "中华",
    "Привет",
    "мир",
    "½",
    "ﬁn",
]
LIMIT = 2e-5


def texts(rng: random.Random, count: int, lengths: tuple[int, ...]) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.choice(lengths))) for _ in range(count)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """On both sides of the length at which a graph changes its way, and some of one length."""
    rng = random.Random(5)
    queries, documents = texts(rng, 40, (1, 3, 8)), texts(rng, 40, (1, 2, 9, 20, 60, 150))
    return [
        *zip(queries, documents, strict=True),
        ("", ""),
        ("a", ""),
        ("", "b"),
        ("same", "same"),
        ("same", "same"),
    ]


@pytest.fixture(scope="module")
def expected(pairs: list[tuple[str, str]]) -> np.ndarray:
    library = Library.from_file(str(RERANKER / "tokenizer.json"))
    with Checkpoint(RERANKER) as checkpoint:
        return np.array([forward(checkpoint, np.array(library.encode(*pair).ids)).logit for pair in pairs])


@pytest.fixture(scope="module", params=VARIANTS)
def reranker(request: pytest.FixtureRequest, reranker_bundle: Path):
    with Reranker.open(reranker_bundle, variant=request.param, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(reranker_bundle: Path):
    with Reranker.open(reranker_bundle, threads=1) as opened:
        yield opened


def test_scores_are_the_oracles(reranker: Reranker, pairs: list[tuple[str, str]], expected: np.ndarray):
    """Every variant, within its tolerance; float32 within the project's promise."""
    found = reranker.score(pairs)
    assert found.dtype == np.float32
    allowed = LIMIT if "fp32" in reranker.info["variant"] else reranker.tolerance
    assert np.abs(found - expected).max() <= allowed * np.abs(expected).max()
    # Far more than the pairs differ among themselves, or a constant would pass.
    assert expected.std() > 100 * LIMIT


def test_a_pair_in_any_company(reranker: Reranker, pairs: list[tuple[str, str]]):
    """Ragged variants: the same bits alone, in a batch, in another order, and from one thread."""
    if "portable" in reranker.info["variant"]:
        pytest.skip("padded batches promise closeness, not bits")
    together = reranker.score(pairs)
    for row, pair in enumerate(pairs):
        assert_as_alone(reranker, reranker.score([pair])[0], together[row])
    order = random.Random(1).sample(range(len(pairs)), len(pairs))
    shuffled = reranker.score([pairs[row] for row in order])
    assert_as_alone(reranker, shuffled, together[order])


def test_order_matters(plain: Reranker):
    """Query and document are not interchangeable."""
    first, second = plain.score([("capital of China", "北京"), ("北京", "capital of China")])
    assert first != second


def test_rank(plain: Reranker):
    """Best first, with positions; top_k cuts; documents come when asked for."""
    documents = ["sort numbers", "北京", "the lazy dog", "capital"]
    scores = plain.score([("capital of China", document) for document in documents])
    ranked = plain.rank("capital of China", documents)
    assert [row.index for row in ranked] == np.argsort(-scores).tolist()
    assert [row.score for row in ranked] == sorted(scores.tolist(), reverse=True)
    assert all(row.document is None for row in ranked)
    best = plain.rank("capital of China", iter(documents), top_k=2, return_documents=True)
    assert [(row.index, row.score, row.document) for row in best] == [
        (r.index, r.score, documents[r.index]) for r in ranked[:2]
    ]
    assert len(plain.rank("capital of China", documents, top_k=9)) == 4


def test_equals_keep_their_order(plain: Reranker):
    """Ties are broken by position, so that a page of results does not change from call to call."""
    assert [row.index for row in plain.rank("China", ["dog", "fox", "dog", "fox", "dog"])] in (
        [0, 2, 4, 1, 3],
        [1, 3, 0, 2, 4],
    )


def test_sigmoid(plain: Reranker):
    """From 0 to 1, in the same order, and never an overflow."""
    pairs = [("China", "dog"), ("fox", "capital")]
    raw, bounded = plain.score(pairs), plain.score(pairs, sigmoid=True)
    np.testing.assert_allclose(bounded, 1 / (1 + np.exp(-raw.astype(np.float64))), rtol=1e-6)
    assert bounded.dtype == np.float32
    assert plain.rank("China", ["dog"], sigmoid=True)[0].score == bounded[0]


def test_tokens_and_truncation(plain: Reranker):
    """How long each pair was, and which were cut."""
    scores = plain.evaluate([("a", "b"), ("China", "dog " * 100)], max_length=20)
    assert scores.truncated.tolist() == [False, True]
    assert scores.tokens[1] == 20
    assert len(scores) == 2
    assert len(plain.evaluate([])) == 0
    assert plain.score([]).shape == (0,)


# Tokens of pairs


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer((RERANKER / "tokenizer.json").read_bytes())


@given(st.text(max_size=60), st.text(max_size=60), st.integers(5, 60))
@settings(max_examples=examples(150), deadline=None)
def test_truncation_is_the_librarys(tokenizer: Tokenizer, query: str, document: str, limit: int):
    """Longest first, as the tokenizers library truncates a pair: the slow version, which tokenizes both texts
    whole.
    """
    query, document = (text.encode("utf-8", "replace").decode() for text in (query, document))
    library = Library.from_file(str(RERANKER / "tokenizer.json"))
    library.enable_truncation(limit, strategy="longest_first")
    found = tokenizer.encode_pairs([(query, document)], max_length=limit)[0]
    assert found.ids.tolist() == library.encode(query, document).ids
    library.no_truncation()
    assert found.truncated == (len(library.encode(query, document).ids) > limit)


def word_piece() -> Library:
    """As the English checkpoints have it: three special tokens around a pair, so that an odd number may be
    left for two texts.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [
        *specials,
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
        "dog",
        "fox",
        "##er",
    ]
    library = Library(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    library.add_special_tokens(specials)
    return library


@given(st.text("adefgorx ", max_size=60), st.text("adefgorx ", max_size=60), st.integers(4, 40))
@settings(max_examples=examples(150), deadline=None)
def test_truncation_of_word_pieces(query: str, document: str, limit: int):
    """The same for the tokenizer of the English models."""
    library = word_piece()
    tokenizer = Tokenizer(library.to_str().encode())
    assert tokenizer.pair_template == ([2], [3], [3])
    library.enable_truncation(limit, strategy="longest_first")
    found = tokenizer.encode_pairs([(query, document)], max_length=limit)[0]
    assert found.ids.tolist() == library.encode(query, document).ids


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50))
def test_longest_first(first: int, second: int, room: int):
    """Against its definition: take one token off the longer until both fit; of equals, off the first."""
    a, b = first, second
    while a + b > room:
        if a > b or (a == b and first <= second):
            a -= 1
        else:
            b -= 1
    assert longest_first(first, second, room) == (a, b)


def test_a_query_that_fills_everything(plain: Reranker):
    """B-19: a query over the limit leaves half to the document, and neither is lost."""
    tokens = plain.tokenizer.encode_pairs([("dog " * 500, "fox " * 500)], max_length=24)[0]
    assert len(tokens.ids) == 24
    before, between, after = plain.tokenizer.pair_template
    assert (before, between, after) == ([0], [2, 2], [2])
    assert tokens.ids.tolist().count(2) == 3
    assert tokens.ids.tolist().index(2) == 11
    assert np.isfinite(plain.score([("dog " * 500, "fox")], max_length=24)).all()


def test_megabytes(plain: Reranker):
    """B-9: of texts of a million characters only beginnings are tokenized; the tokens are those of any
    shorter beginning.
    """
    short, long = "dog fox " * 40, "dog fox " * 125_000
    encode = plain.tokenizer.encode_pairs
    for query, document in (("China", "{}"), ("{}", "China"), ("{}", "a{}")):
        few, many = ((query.format(text), document.format(text)) for text in (short, long))
        assert encode([many], max_length=64)[0].ids.tolist() == encode([few], max_length=64)[0].ids.tolist()


def test_a_tokenizer_without_pairs(tmp_path: Path):
    """A post-processor that only knows single texts would glue query and document together: no bundle comes
    of it.
    """
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(RERANKER / file)
    raw = json.loads((RERANKER / "tokenizer.json").read_text(encoding="utf-8"))
    raw["post_processor"]["pair"] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(BundleError, match="no special tokens for pairs"):
        build(tmp_path, tmp_path / "bundle", graphs=GRAPHS)
    assert not (tmp_path / "bundle").exists()


# What is refused


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        ("", ["a"], r"query: an empty query has no answer"),
        (None, ["a"], r"query: expected a string, found NoneType"),
        ("\ud800", ["a"], r"query: lone surrogate"),
        ("a", [], r"documents: there are no documents"),
        ("a", "b", r"documents: expected an iterable of strings, found str"),
        ("a", None, r"documents: expected a string or an iterable of strings, found NoneType"),
        ("a", ["b", None], r"documents\[1\]: expected a string, found NoneType"),
        ("a", ["b", "c", b"d"], r"documents\[2\]: expected a string, found bytes"),
        ("a", ["b", "x\udc00"], r"documents\[1\]: lone surrogate"),
    ],
)
def test_what_cannot_be_ranked(plain: Reranker, query: Any, documents: Any, message: str):
    """B-18: named by field and index, and the next call works."""
    with pytest.raises(InputError, match=message):
        plain.rank(query, documents)
    assert plain.rank("a", ["b"])


@pytest.mark.parametrize("pair", [("a", "b", "c"), ("a",), "ab", None, ("a", None), ("a", "\ud800")])
def test_what_is_no_pair(plain: Reranker, pair: Any):
    """B-18: the index is the pair's."""
    with pytest.raises(InputError, match=r"pairs\[1\]: ") as caught:
        plain.score([("a", "b"), pair])
    assert caught.value.index == 1


@pytest.mark.parametrize("value", [0, 4, -1, 8193, 2**63, "512", True, 1.5])
def test_limits(plain: Reranker, value: Any):
    """B-13: below five tokens a pair of texts has no place for either; above, the model has no positions."""
    with pytest.raises(ConfigError, match="expected an integer from 5 to 8192"):
        plain.score([("a", "b")], max_length=value)
    assert len(plain.evaluate([("dog", "fox")], max_length=5).tokens) == 1


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
def test_top_k(plain: Reranker, value: Any):
    with pytest.raises(ConfigError, match="top_k is"):
        plain.rank("a", ["b"], top_k=value)


@pytest.mark.parametrize("value", ["ignore", None, 1])
def test_ways_to_meet_bad_unicode(plain: Reranker, value: Any):
    """A name that is none is refused, not taken for "strict"."""
    with pytest.raises(ConfigError, match="expected 'strict' or 'replace'"):
        plain.rank("q", ["a"], errors=value)
    with pytest.raises(ConfigError, match="expected 'strict' or 'replace'"):
        plain.score([("q", "a")], errors=value)


def test_no_truncation(plain: Reranker):
    """B-11: with truncation off, a pair over the limit is an error that carries both numbers."""
    with pytest.raises(InputTooLongError, match=r"pairs\[1\]: \d+ tokens, the limit is 20") as caught:
        plain.score([("a", "b"), ("dog", "fox " * 20)], max_length=20, truncate=False)
    assert (caught.value.index, caught.value.limit) == (1, 20)
    assert caught.value.tokens == len(
        Library.from_file(str(RERANKER / "tokenizer.json")).encode("dog", "fox " * 20).ids
    )


class Gpus:
    """Two devices that give each pair's number of tokens as its logit."""

    provider = "cuda"
    workers = 2

    def __init__(self) -> None:
        self.runs: list[tuple[int, str]] = []

    def run(self, batch: Batch, share: str = "any", owner: object = None, *, states: bool = False) -> Outputs:
        self.runs.append((len(batch.input_ids), share))
        return Outputs(NOTHING, NOTHING, batch.lengths.astype(np.float32))

    def stop(self, owner: object) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("batch", "most"), [("packed", 32768), ("padded", 8192)])
def test_on_gpus(plain: Reranker, batch: str, most: int):
    """As an Embedder there: packed runs have a GPU's budget, and all runs go side by side, each on one
    device.
    """
    gpus = Gpus()
    variant = replace(plain.engine.variant, batch=batch)
    gte = Reranker(plain.manifest, plain.tokenizer, Engine(gpus, variant, 64))
    assert gte.engine.budget.max_tokens == most
    found = gte.evaluate([("China", "dog " * count) for count in range(1, 200)])
    assert found.scores.tolist() == found.tokens.tolist()
    assert len(gpus.runs) > 1
    assert {share for _, share in gpus.runs} == {"one"}


def test_the_other_kind_of_model(reranker_bundle: Path, tiny_bundle: Path):
    """Vectors asked of a reranker, scores asked of an embedding model: said at once, with what to use."""
    with pytest.raises(ConfigError, match=r"is a reranker, .*use Reranker\.open"):
        Embedder.open(reranker_bundle)
    with pytest.raises(ConfigError, match=r"is an embedding model, .*use Embedder\.open"):
        Reranker.open(tiny_bundle)


def test_graphs_of_the_other_kind(golden, tmp_path: Path):
    """Graphs of an embedding model do not fit a reranker's checkpoint, though layers and widths agree."""
    with pytest.raises(CheckpointError, match="graphs in graphs are for"):
        build(RERANKER, tmp_path / "bundle", graphs=golden.graphs)


# The bundle


def test_the_bundle_proves_itself(reranker_bundle: Path):
    """Its pairs, and no texts; every variant gives logits."""
    manifest = Bundle.open(reranker_bundle).manifest
    assert manifest.reranker
    assert not manifest.self_checks
    assert len(manifest.pair_checks) == 4
    assert {variant.outputs for variant in manifest.variants.values()} == {("logits",)}
    assert max(len(check.ids) for check in manifest.pair_checks) >= manifest.variants["cpu-fp32"].flash_from


def test_another_score_is_noticed(reranker_bundle: Path, tmp_path: Path):
    """A manifest that records other scores than the model gives is refused at load."""
    copy = tmp_path / "bundle"
    shutil.copytree(reranker_bundle, copy)
    check = Bundle.open(copy).manifest.pair_checks[1]
    change_manifest(copy, lambda raw: raw["pair_checks"][1].update(logit=check.logit + 1e-3))
    with pytest.raises(SelfCheckFailed, match="a score of the self-check is"):
        Reranker.open(copy)
