"""Nothing that a client sends is dropped in silence.

Every field of every dialect is done, refused by its name, or told of in a warning. Nothing here has a port.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_fields import PAGE, PUBLISHED, page
from serving import asked
from spoil import change_manifest

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.server.app import all_routes
from gte_runtime.server.fields import fates
from gte_runtime.server.models import EmbeddingModel, RerankerModel, ServedModel
from gte_runtime.server.numbers import in_base64, of_kind

Ask = Callable[..., Any]
TEXT = "What is the capital of China?"
LONG = " ".join(f"w{i}" for i in range(60))


@pytest.fixture(scope="module")
def models(gte: Embedder, reranker: Reranker) -> list[ServedModel]:
    return [EmbeddingModel("embedder", gte), RerankerModel("reranker", reranker)]


@pytest.fixture(scope="module")
def ask(models: list[ServedModel]) -> Callable[[str, Any], httpx.Response]:
    """The answer to one request, to both models."""
    return lambda path, body, **options: asked(models, (path, body), **options)[0]


def vector(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"], np.float32)


# Every field.
REQUIRED: dict[str, dict[str, Any]] = {
    "/v1/encode": {"input": "a"},
    "/v1/embeddings": {"input": "a"},
    "/embeddings": {"input": "a"},
    "/embed": {"inputs": "a"},
    "/embed_sparse": {"inputs": "a"},
    "/embed_all": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/tokenize": {"inputs": "a"},
    "/detokenize": {"tokens": [5]},
    "/decode": {"ids": [5]},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
    "/v1/embed": {"texts": ["a"]},
    "/v2/embed": {"texts": ["a"]},
    "/v1/tokenize": {"text": "a"},
    "/v1/detokenize": {"tokens": [5]},
    "/score": {"queries": "a", "documents": "b"},
    "/v1/score": {"queries": "a", "documents": "b"},
    "/compatible-mode/v1/embeddings": {"input": "a"},
    "/compatible-api/v1/reranks": {"query": "a", "documents": ["b"]},
    "/api/v1/services/embeddings/text-embedding/text-embedding": {"input": {"texts": ["a"]}},
    "/api/v1/services/rerank/text-rerank/text-rerank": {"input": {"query": "a", "documents": ["b"]}},
}
"""The least that a request holds."""
OTHER_WAYS = {"/", "/invocations"}
"""Where a request is one of these."""


def routes_with_requests() -> dict[str, type]:
    return {route.path: route.requests[0] for route in all_routes() if len(route.requests) == 1}


def test_published_fields_have_all_been_considered():
    """Every field that another server publishes is in the request type of its route."""
    kinds = routes_with_requests()
    assert kinds.keys() == REQUIRED.keys()
    for who, facts in PUBLISHED.items():
        for path, names in facts["routes"].items():
            assert set(names.split()) - fates(kinds[path]).keys() == set(), f"{who} {path}"


def test_the_page_of_fields_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/request_fields.py"


NOT_DONE = [
    (path, name, fate)
    for path, kind in routes_with_requests().items()
    for name, fate in fates(kind).items()
    if fate.how != "done"
]


def test_no_field_is_dropped_in_silence(models: list[ServedModel]):
    """A field that is not done is refused by name or warned of; null, and what asks for nothing, is fine."""
    assert len({name for _, name, _ in NOT_DONE}) > 15
    requests = [(path, REQUIRED[path] | {name: {"x": [1]}}) for path, name, _ in NOT_DONE]
    for (path, name, fate), answer in zip(NOT_DONE, asked(models, *requests), strict=True):
        warned = answer.headers.get("x-gte-warning", "")
        where = f"{path} {name}: {answer.status_code} {warned}"
        if fate.how == "refused":
            assert answer.status_code in (400, 422), where
            assert f"{name} is not supported here: {fate.why}" in answer.text, where
        elif fate.how == "warned":
            assert answer.status_code == 200, where
            assert warned.startswith(f"{name} has no effect here"), where
            body = answer.json()
            if isinstance(body, dict):  # few clients show a header
                assert name in (body.get("warnings") or body["meta"]["warnings"])[0], where
        else:
            assert (answer.status_code, warned) == (200, ""), where
    quiet = [
        (path, REQUIRED[path] | {name: value})
        for path, name, fate in NOT_DONE
        for value in (None, *fate.unless)
    ]
    for (path, body), answer in zip(quiet, asked(models, *quiet), strict=True):
        assert (answer.status_code, answer.headers.get("x-gte-warning")) == (200, None), (
            path,
            body,
            answer.text,
        )


@pytest.mark.slow
def test_no_value_of_any_field_is_a_server_error(models: list[ServedModel]):
    """Of the wrong type, out of range, empty, nested, of no text: refused or done, never a status of 500."""
    strange = [True, -1, 10**30, "", [], {}, [None], {"a": {}}, "\x00", ["a", 5], {"text": 5}]
    requests = [
        (path, REQUIRED[path] | {name: value})
        for path, kind in routes_with_requests().items()
        for name in fates(kind)
        for value in strange
    ]
    answers = asked(models, *requests)
    assert [each for each, answer in zip(requests, answers, strict=True) if answer.status_code >= 500] == []


def test_an_unknown_field_is_told_of(ask: Ask):
    answer = ask("/v1/embeddings", {"input": "a", "colour": "red"})
    assert "colour" in answer.headers["x-gte-warning"]
    assert "colour" in answer.json()["warnings"][0]
    assert "colour" in ask("/v2/embed", {"texts": ["a"], "colour": "red"}).json()["meta"]["warnings"][0]
    assert ask("/v1/embeddings", {"input": "a", "colour": "red"}, strict=True).status_code == 400
    hub = ask("/", {"inputs": "a", "parameters": {"normalize": False, "colour": "red"}})
    assert "parameters.colour" in hub.headers["x-gte-warning"]
    assert np.linalg.norm(hub.json()[0]) > 1.5


def test_every_unknown_field_is_told_of(ask: Ask):
    """Not the first alone. Of very many, the others are counted."""
    some = {"colour": "red", "size": 1, "parts": {"a": [1]}}
    told = [f"the field {name} is not known here and was ignored" for name in some]
    for path, body in (
        ("/v1/encode", {"input": "a"}),
        ("/v2/embed", {"texts": ["a"]}),
        ("/embed", {"inputs": "a"}),
    ):
        answer = ask(path, body | some)
        assert answer.headers.get_list("x-gte-warning") == told, path
    lone = '{"input": ["a", "\\ud800"], "on_error": "item", "colour": "red", "size": 1}'
    assert ask("/v1/encode", lone.encode()).json()["warnings"] == told[:2]
    many = ask("/v1/embeddings", {"input": "a"} | {f"x{i}": i for i in range(20)}).json()["warnings"]
    assert [*map(str.split, many[:6])] == [
        f"the field x{i} is not known here and was ignored".split() for i in range(6)
    ]
    assert many[6:] == ["14 more fields are not known here and were ignored"]
    of_many_values = {"input": "a", "colour": ["red"] * 20_000, "size": 1}
    assert told[0] in ask("/v1/embeddings", of_many_values).json()["warnings"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/encode", {"input": "a", "sparse_format": "ids"}, "sparse_format has no effect here"),
        ("/v1/encode", {"input": "a", "dense": False, "sparse": True, "dimensions": 64}, "dimensions has no"),
        (
            "/v1/encode",
            {"input": "a", "dense": False, "sparse": True, "encoding_format": "base64"},
            "encoding_format has no effect here: dense is false",
        ),
        (
            "/v1/rerank",
            {"query": "q", "documents": ["a", {"t": "b"}], "rank_fields": ["t"]},
            "rank_fields has no",
        ),
        (
            "/v1/embeddings",
            {"input": "a", "normalize": False, "output_dtype": "int8"},
            "output_dtype=int8: with",
        ),
        ("/tokenize", {"prompt": "a", "colour": "red"}, "the field colour is not known"),
        ("/tokenize", {"content": "a", "colour": "red"}, "the field colour is not known"),
        ("/detokenize", {"tokens": [5], "colour": "red"}, "the field colour is not known"),
        (
            "/compatible-api/v1/reranks",
            {"query": "q", "documents": ["a"], "colour": 1},
            "the field colour is not",
        ),
        (
            "/api/v1/services/embeddings/text-embedding/text-embedding",
            {"input": {"texts": ["a"]}, "parameters": {"output_type": "sparse", "dimension": 8}},
            "parameters.dimension changes nothing",
        ),
        (
            "/api/v1/services/rerank/text-rerank/text-rerank",
            {"input": {"query": "q", "documents": ["a"]}, "colour": "red"},
            "the field colour is not known",
        ),
    ],
)
def test_what_has_no_effect_is_told_in_the_answer_itself(
    ask: Ask, path: str, body: dict[str, Any], words: str
):
    answer = ask(path, body)
    assert answer.status_code == 200, answer.text
    assert words in answer.headers["x-gte-warning"]
    assert any(words in warning for warning in answer.json()["warnings"])


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (
            "/v1/embeddings",
            {"messages": [{"role": "user", "content": "a"}]},
            "messages is not supported here",
        ),
        ("/v1/rerank", {"query": "q", "texts": ["a"]}, "texts is not supported here"),
        ("/v2/rerank", {"query": "q"}, "the field documents is missing"),
        ("/rerank", {"query": "q"}, "either texts (as to TEI) or documents"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["b", ""]}},
            "inputs.sentences[1] is an empty string",
        ),
        ("/", {"inputs": {"source_sentence": "", "sentences": ["b"]}}, "inputs.source_sentence is an empty"),
    ],
)
def test_an_error_names_the_field_that_is_to_blame(ask: Ask, path: str, body: dict[str, Any], words: str):
    answer = ask(path, body)
    assert answer.status_code in (400, 422)
    assert words in answer.text


# Types that JSON clients get wrong.
def test_strings_that_spell_booleans_and_integers_count_as_them(ask: Ask, gte: Embedder):
    """RAGFlow sends "true"; servers on pydantic take it. null is absent, everywhere."""
    cut = vector(
        ask("/v1/embeddings", {"input": TEXT, "dimensions": "40", "normalized": "true", "user": None})
    )
    assert np.array_equal(cut, gte.encode(TEXT, dim=40).dense[0])
    raw = vector(ask("/v1/embeddings", {"input": TEXT, "normalized": "False"}))
    assert np.array_equal(raw, gte.states(TEXT)[0])
    ranked = ask("/v2/rerank", {"query": "q", "documents": ["a"], "return_documents": "true", "top_n": "1"})
    assert ranked.json()["results"][0]["document"] == {"text": "a"}
    all_null = dict.fromkeys(("dense", "sparse", "tokens", "truncate", "dimensions", "on_error", "prompt"))
    assert np.array_equal(vector(ask("/v1/encode", {"input": TEXT, **all_null})), gte.encode(TEXT).dense[0])
    # Of a field that is refused, too, unless it asks for nothing.
    nothing = {"late_chunking": "false", "add_special_tokens": "True", "priority": "0", "embd_normalize": "2"}
    quiet = ask("/v1/embeddings", {"input": TEXT, **nothing})
    assert quiet.headers.get("x-gte-warning") is None
    assert np.array_equal(vector(quiet), gte.encode(TEXT).dense[0])
    assert ask("/v1/embeddings", {"input": TEXT, "late_chunking": "true"}).status_code == 400
    for value in ("yes", "8.5", 2, [True]):
        refused = ask("/v1/embeddings", {"input": TEXT, "normalized": value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "normalized")
    # Where a string is expected, it stays one.
    assert vector(ask("/v1/embeddings", {"input": ["true"]})).tolist() == gte.encode("true").dense[0].tolist()


@pytest.mark.parametrize(
    ("path", "body", "values"),
    [
        ("/v1/embeddings", {"input": "a", "encoding_format": "bytes"}, "float, base64"),
        ("/v1/embeddings", {"input": "a", "embed_dtype": "fp8_e4m3"}, "float32, float16, bfloat16"),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["int4"]}, "float, int8, uint8, binary, ubinary"),
        ("/v2/embed", {"texts": ["a"], "truncate": "MIDDLE"}, "NONE, START, END"),
        ("/v1/encode", {"input": "a", "sparse_format": "csr"}, "object, list, ids, tokens, both"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, "Left, Right"),
        ("/v1/embeddings", {"input": "a", "input_type": "poem"}, "search_query"),
        (
            "/api/v1/services/embeddings/text-embedding/text-embedding",
            {"input": {"texts": ["a"]}, "parameters": {"output_type": "dense,sparse"}},
            "dense, sparse, dense&sparse",
        ),
        (
            "/similarity",
            {
                "inputs": {"source_sentence": "a", "sentences": ["b"]},
                "parameters": {"truncation_direction": "up"},
            },
            "left, right",
        ),
    ],
)
def test_an_error_names_the_values_there_are(ask: Ask, path: str, body: dict[str, Any], values: str):
    answer = ask(path, body)
    assert answer.status_code in (400, 422)
    assert values in answer.text


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/embeddings", {"dimensions": 8, "output_dimension": 16}, ("dimensions", "output_dimension")),
        ("/v1/embeddings", {"normalized": True, "use_activation": False}, ("normalized", "use_activation")),
        (
            "/v1/embeddings",
            {"embedding_type": "int8", "output_dtype": "uint8"},
            ("embedding_type", "output_dtype"),
        ),
        ("/v1/embeddings", {"encoding_format": "float", "embedding_type": "base64"}, ("encoding_format",)),
        (
            "/v1/embeddings",
            {"truncate": "START", "truncation_side": "right"},
            ("truncate", "truncation_side"),
        ),
        ("/v1/embeddings", {"truncate": False, "truncation": True}, ("truncate", "truncation")),
        ("/v1/embeddings", {"truncate": False, "truncate_prompt_tokens": 9}, ("truncate_prompt_tokens",)),
        ("/rerank", {"raw_scores": True, "use_activation": True}, ("raw_scores", "use_activation")),
        ("/rerank", {"top_n": 1, "top_k": 2}, ("top_n", "top_k")),
        ("/rerank", {"texts": ["b"]}, ("texts", "documents")),
        ("/score", {"items": ["b"]}, ("documents", "items")),
        ("/score", {"text_1": "b"}, ("queries", "text_1")),
        ("/score", {"data_2": "b"}, ("documents", "data_2")),
        (
            "/tokenize",
            {"add_special": True, "add_special_tokens": False},
            ("add_special_tokens", "add_special"),
        ),
        (
            "/v2/rerank",
            {"max_tokens_per_doc": 9, "max_doc_length": 8},
            ("max_tokens_per_doc", "max_doc_length"),
        ),
    ],
)
def test_two_fields_that_contradict_each_other(
    ask: Ask, path: str, body: dict[str, Any], names: tuple[str, ...]
):
    answer = ask(path, REQUIRED[path] | body)
    assert answer.status_code in (400, 422)
    assert "contradict" in answer.text
    assert all(name in answer.text for name in names)
    same = {name: next(iter(body.values())) for name in body}  # twice the same is no contradiction
    if all(type(value) is int for value in body.values()):
        assert ask(path, REQUIRED[path] | same).status_code == 200


# Types of numbers.
@given(rows=st.lists(st.lists(st.floats(-1, 1, width=32), min_size=16, max_size=16), min_size=1, max_size=3))
@settings(max_examples=30)
def test_types_of_numbers_as_their_definitions_say(rows: list[list[float]]):
    """Each against the slow version, value by value."""
    dense = np.array(rows, np.float32)
    for row, i8, u8, bits, signed in zip(
        dense, *(of_kind(dense, kind) for kind in ("int8", "uint8", "ubinary", "binary")), strict=True
    ):
        slow = [round(float(np.float32(value) * np.float32(127))) for value in row]  # half to even, both
        assert i8.tolist() == slow
        assert u8.tolist() == [value + 128 for value in slow]
        packed = [
            sum((row[start + bit] > 0) << (7 - bit) for bit in range(8)) for start in range(0, len(row), 8)
        ]
        assert bits.tolist() == packed
        assert signed.tolist() == [value - 128 for value in packed]
    assert [a.dtype for a in (i8, u8, bits, signed)] == [np.int8, np.uint8, np.uint8, np.int8]


def test_eight_bits_keep_the_cosine():
    """What the page says of the rounding: some 0.003 at 768 values."""
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2, 500, 768)).astype(np.float32)
    pairs[1] += pairs[0]
    pairs /= np.linalg.norm(pairs, axis=2, keepdims=True)
    rounded = np.stack([of_kind(side, "int8") for side in pairs]).astype(np.float32)
    cosines = (rounded[0] * rounded[1]).sum(1) / np.prod(np.linalg.norm(rounded, axis=2), axis=0)
    moved = np.abs(cosines - (pairs[0] * pairs[1]).sum(1))
    assert 0.0005 < moved.mean() < 0.004
    assert of_kind(3 * pairs[0], "int8").min() >= -127  # not normalised: no overflow to the other sign


def test_floats_in_base64_are_of_the_type_and_order_asked_for():
    """bfloat16 is the upper half of a float32, to the nearest, and to even between two."""
    dense = np.array([[1.0, -0.3333333, 1.00390625, 1.01171875]], np.float32)
    (half,) = in_base64(dense, "float16", "big")
    assert np.array_equal(np.frombuffer(base64.b64decode(half), ">f2"), dense[0].astype(np.float16))
    (brain,) = in_base64(dense, "bfloat16", "little")
    found = np.frombuffer(base64.b64decode(brain), "<u2").astype(np.uint32) << 16
    assert found.view(np.float32).tolist() == [1.0, -0.333984375, 1.0, 1.015625]


def test_every_type_of_cohere_voyage_jina_and_nim(ask: Ask, gte: Embedder):
    """By types at /v2/embed; one type at /v1/embeddings under either name, as numbers or in base64."""
    dense = gte.encode(TEXT).dense
    kinds = ("float", "int8", "uint8", "binary", "ubinary")
    found = ask("/v2/embed", {"texts": [TEXT], "embedding_types": [*kinds, "base64"]}).json()["embeddings"]
    assert found.pop("base64") == in_base64(dense)
    for kind, name in itertools.product(kinds, ("embedding_type", "output_dtype")):
        want = of_kind(dense, kind)  # type: ignore[arg-type]
        assert np.array_equal(np.array(found[kind], want.dtype), want)
        one = ask("/v1/embeddings", {"input": TEXT, name: kind}).json()["data"][0]["embedding"]
        assert np.array_equal(np.array(one, want.dtype), want[0])
        packed = ask("/v1/embeddings", {"input": TEXT, name: kind, "encoding_format": "base64"}).json()
        assert np.array_equal(
            np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), want.dtype), want[0]
        )
    refused = ask("/v1/embeddings", {"input": TEXT, "output_dtype": "binary", "dimensions": 33})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "output_dtype")
    half = {"input": TEXT, "encoding_format": "base64", "embed_dtype": "float16", "endianness": "big"}
    assert ask("/v1/embeddings", half).json()["data"][0]["embedding"] == in_base64(dense, "float16", "big")[0]


def test_cohere_s_first_version(ask: Ask, gte: Embedder):
    """/v1/embed answers floats alone, or by types when they are asked for."""
    dense = gte.encode([TEXT, "b"]).dense
    answer = ask("/v1/embed", {"texts": [TEXT, "b"], "model": "m", "input_type": "search_query"}).json()
    assert np.array_equal(np.array(answer["embeddings"], np.float32), dense)
    assert (answer["response_type"], answer["texts"]) == ("embeddings_floats", [TEXT, "b"])
    assert answer["meta"]["api_version"] == {"version": "1"}
    typed = ask("/v1/embed", {"texts": [TEXT, "b"], "embedding_types": ["int8"]}).json()
    assert (typed["response_type"], typed["embeddings"].keys()) == ("embeddings_by_type", {"int8"})
    tokens = ask("/v1/tokenize", {"text": TEXT, "model": "m"}).json()
    assert tokens["tokens"] == [token for token, _ in gte.tokenize(TEXT)[1:-1]]
    assert len(tokens["token_strings"]) == len(tokens["tokens"])
    back = ask("/v1/detokenize", {"tokens": tokens["tokens"], "model": "m"}).json()["text"]
    assert back == ask("/decode", {"ids": tokens["tokens"]}).json()[0]
    content = {"content": [{"type": "text", "text": TEXT[:5]}, {"type": "text", "text": TEXT[5:]}]}
    parts = ask("/v2/embed", {"inputs": [content], "output_dimension": 40}).json()
    assert np.array_equal(
        np.array(parts["embeddings"]["float"][0], np.float32), gte.encode(TEXT, dim=40).dense[0]
    )
    image = ask("/v2/embed", {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]})
    assert (image.status_code, image.json()["error"]["param"]) == (400, "inputs[0]")


# What a text is for.
@pytest.fixture(scope="module")
def prompted(golden: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    """A model with prompts for queries and passages, of which the second is the default."""
    bundle = tmp_path_factory.mktemp("prompted") / "bundle"
    build(golden.checkpoint, bundle, graphs=golden.graphs, prompts={"query": "q: ", "passage": "p: "})
    change_manifest(bundle, lambda raw: raw.update(default_prompt="passage"))
    with Embedder.open(bundle) as embedder:
        yield embedder


SENT = {
    "/v1/embeddings": ("input", lambda body: body["data"][0]["embedding"]),
    "/embeddings": ("input", lambda body: body["data"][0]["embedding"]),
    "/v1/encode": ("input", lambda body: body["data"][0]["embedding"]),
    "/v1/embed": ("texts", lambda body: body["embeddings"][0]),
    "/v2/embed": ("texts", lambda body: body["embeddings"]["float"][0]),
}


def test_what_a_text_is_for_chooses_the_prompt_by_one_rule(prompted: Embedder):
    """In the words of Cohere, Voyage, Jina and NIM, on every route that has the field."""
    query, passage = (prompted.encode(TEXT, prompt_name=name).dense[0] for name in ("query", "passage"))
    cases = [
        *(("input_type", word, query) for word in ("query", "search_query", "QUERY", "retrieval.query")),
        *(
            ("input_type", word, passage)
            for word in ("passage", "document", "search_document", "RETRIEVAL_DOCUMENT")
        ),
        ("input_type", None, passage),
    ]
    asks = [
        (path, {texts: [TEXT], field: word}, want, read)
        for path, (texts, read) in SENT.items()
        for field, word, want in cases
    ]
    asks += [
        ("/v1/embeddings", {"input": TEXT, field: word}, want, SENT["/v1/embeddings"][1])
        for field, word, want in (
            ("task", "retrieval.query", query),
            ("task", "nl2code.passage", passage),
            ("prompt_name", "query", query),
            ("prompt_name", "", prompted.encode(TEXT, prompt_name="").dense[0]),
        )
    ]
    model = [EmbeddingModel("m", prompted)]
    answers = asked(model, *((path, body) for path, body, _, _ in asks))
    for (path, body, want, read), answer in zip(asks, answers, strict=True):
        assert np.array_equal(np.array(read(answer.json()), np.float32), want), (path, body)
        assert "x-gte-warning" not in answer.headers
    other, unknown, both = asked(
        model,
        ("/v2/embed", {"texts": [TEXT], "input_type": "clustering"}),
        ("/v2/embed", {"texts": [TEXT], "input_type": "poem"}),
        ("/v1/embeddings", {"input": TEXT, "input_type": "query", "task": "retrieval.passage"}),
    )
    text, *listed = asked(
        model,
        ("/tokenize", {"content": f"q: {TEXT}"}),
        ("/tokenize", {"content": TEXT, "prompt_name": "query"}),
        ("/tokenize", {"prompt": TEXT, "prompt_name": "query", "add_special_tokens": False}),
    )
    assert [answer.json()["tokens"] for answer in listed] == [text.json()["tokens"]] * 2
    assert "no prompt for it, so its default prompt was used" in other.json()["meta"]["warnings"][0]
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown_prompt")
    assert (both.status_code, both.json()["error"]["code"]) == (400, "contradiction")


# Where a text is cut.
def test_either_side_is_cut_to_any_limit(ask: Ask, gte: Embedder):
    """By the fields of vLLM, Cohere, Jina and NIM; token ids too. The error names the field that was sent."""
    ids = [token for token, _ in gte.tokenize(LONG)]
    assert len(ids) > 12
    first, last = [*ids[:9], ids[-1]], [ids[0], *ids[-9:]]

    def of(these: list[int]) -> np.ndarray:
        answer = ask("/v1/embeddings", {"input": [these]}, accept_token_ids=True)
        return vector(answer)

    start, end = of(first), of(last)
    for body, want in (
        ({"truncate_prompt_tokens": 10}, start),
        ({"truncate_prompt_tokens": 10, "truncation_side": "left"}, end),
        ({"truncate_prompt_tokens": 10, "truncate": "START"}, end),
        ({"truncate_prompt_tokens": -1}, gte.encode(LONG).dense[0]),
    ):
        assert np.array_equal(vector(ask("/v1/embeddings", {"input": LONG, **body})), want), body
    for truncate, want in (("END", start), ("START", end), (None, start)):
        answer = ask("/v2/embed", {"texts": [LONG], "max_tokens": 10, "truncate": truncate}).json()
        assert np.array_equal(np.array(answer["embeddings"]["float"][0], np.float32), want)
    refused = ask("/v2/embed", {"texts": [LONG], "max_tokens": 10, "truncate": "NONE"})
    assert refused.json()["code"] == "text_too_long"
    for name in ("max_tokens", "truncate_prompt_tokens", "max_length"):
        path = {"max_tokens": "/v2/embed", "max_length": "/v1/encode"}.get(name, "/v1/embeddings")
        wrong = ask(path, REQUIRED[path] | {name: 9000})
        assert wrong.json()["error"]["param"] == name
    cut = ask("/v1/embeddings", {"input": [ids], "truncate_prompt_tokens": 10}, accept_token_ids=True)
    assert cut.json()["usage"] == {"prompt_tokens": 10, "total_tokens": 10, "truncated": 1}


# Reranking.
DOCUMENTS = ["To sort a list, call sorted().", "北京是中华人民共和国的首都。", LONG]


def ranks(answer: httpx.Response) -> list[tuple[int, np.float32]]:
    assert answer.status_code == 200, answer.text
    return [(item["index"], np.float32(item["relevance_score"])) for item in answer.json()["results"]]


def test_documents_are_cut_one_by_one(ask: Ask, reranker: Reranker):
    """max_tokens_per_doc and its other names: as if each document ended there; 0 is no limit."""
    short = reranker.tokenizer
    pairs = [(TEXT, document) for document in DOCUMENTS]
    before, between, after = short.pair_template
    kept = [short.encode([text], max_length=10_000)[0].ids[1:-1].tolist() for text in (TEXT, *DOCUMENTS)]
    wants = [len(before) + len(between) + len(after) + len(kept[0]) + min(5, len(d)) for d in kept[1:]]
    for path, name in (
        ("/rerank", "max_tokens_per_doc"),
        ("/v1/rerank", "max_doc_length"),
        ("/v2/rerank", "max_tokens_per_doc"),
    ):
        answer = ask(path, {"query": TEXT, "documents": DOCUMENTS, name: 5})
        assert answer.json()["usage"]["prompt_tokens"] == sum(wants)
        assert answer.json()["usage"]["truncated"] == sum(len(d) > 5 for d in kept[1:])
        assert "x-gte-warning" not in answer.headers
        whole = ask(path, {"query": TEXT, "documents": DOCUMENTS, name: 0})
        assert sorted(ranks(whole)) == sorted(
            (index, np.float32(score))
            for index, score in enumerate(reranker.score(pairs, sigmoid=True).tolist())
        )
        negative = ask(path, {"query": TEXT, "documents": DOCUMENTS, name: -5})
        assert f"{name} must be a non-negative integer" in negative.text
    query = ask("/rerank", {"query": LONG, "documents": ["x"], "max_tokens_per_query": 3}).json()["usage"]
    assert query["prompt_tokens"] == len(before) + len(between) + len(after) + 3 + len(
        short.encode(["x"], max_length=100)[0].ids[1:-1]
    )
    left = ask(
        "/rerank", {"query": "q", "documents": [LONG], "max_tokens_per_doc": 5, "truncation_side": "left"}
    )
    right = ask("/rerank", {"query": "q", "documents": [LONG], "max_tokens_per_doc": 5})
    assert ranks(left) != ranks(right)


def test_scores_are_on_the_scale_of_the_dialect_s_own_server(ask: Ask, gte: Embedder, reranker: Reranker):
    """vLLM's /score: cosines, 0 to 1 of a reranker; its use_activation and infinity's raw_scores."""
    pairs = [(TEXT, document) for document in DOCUMENTS]
    body: dict[str, Any] = {"queries": TEXT, "documents": DOCUMENTS}

    def scores(**more: Any) -> np.ndarray:
        return np.array([item["score"] for item in ask("/score", body | more).json()["data"]], np.float32)

    assert np.allclose(scores(), gte.score(pairs, 1.0, 0.0), atol=1e-6)
    assert np.allclose(scores(dense_weight=1.0), gte.score(pairs), atol=1e-6)
    assert np.allclose(scores(sparse_weight=0.3), gte.score(pairs, 1.0, 0.3), atol=1e-6)
    raw, activated = reranker.score(pairs), reranker.score(pairs, sigmoid=True)
    assert np.array_equal(scores(model="reranker"), activated)
    assert np.array_equal(scores(model="reranker", use_activation=False), raw)
    for name, value in (("use_activation", False), ("raw_scores", True)):
        answer = ask("/rerank", {"query": TEXT, "documents": DOCUMENTS, name: value})
        assert sorted(ranks(answer)) == sorted((i, np.float32(score)) for i, score in enumerate(raw))
    assert "model" not in ask("/score", body | {"model": "reranker", "dense_weight": 1}).json()


def test_documents_come_back_as_they_came(ask: Ask):
    """vLLM's types demand `document`, Jina's default has it, Cohere's second version has none. Objects keep
    their fields; rank_fields says which of them are read."""
    objects = [{"text": "a", "id": 7}, {"text": "b", "title": "c"}]
    for path, default in (("/rerank", True), ("/v1/rerank", True), ("/v2/rerank", False)):
        results = ask(path, {"query": "q", "documents": objects}).json()["results"]
        assert all(("document" in item) == default for item in results)
        for value in (True, False):
            asked_for = {"query": "q", "documents": objects, "return_documents": value}
            results = ask(path, asked_for).json()["results"]
            assert [item.get("document") for item in results] == [
                objects[item["index"]] if value else None for item in results
            ]
    fields = [{"title": "sorted", "text": "x", "year": 1999}]
    read = ask("/rerank", {"query": "q", "documents": fields, "rank_fields": ["title", "year"]})
    assert ranks(read) == ranks(ask("/rerank", {"query": "q", "documents": ["sorted\n1999"]}))
    missing = ask("/rerank", {"query": "q", "documents": fields, "rank_fields": ["author"]})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "documents[0]")
    assert "author" in missing.text


@pytest.mark.parametrize("documents", [[1, 2], None, "x", [None], [{"a": 1}]])
def test_whoever_asks_for_ranks_gets_errors_of_their_shape(ask: Ask, documents: Any):
    """A body with documents gets Cohere's shape and 400 on every route, TEI's `texts` TEI's. At /v1 and /v2
    it is Cohere's whatever the body holds."""
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        answer = ask(path, {"query": "q", "documents": documents})
        assert answer.status_code == 400
        assert {"message", "detail", "error"} <= answer.json().keys()
        assert "documents" in answer.json()["message"]
    other = ask("/v2/rerank", {"query": "q", "texts": ["a"], "top_n": -1})
    assert (other.status_code, other.json()["code"]) == (400, "unsupported_field")
    assert "texts" in other.json()["message"]
    tei = ask("/rerank", {"query": "q", "texts": documents})
    assert tei.status_code == 422
    assert tei.json().keys() == {"error", "error_type"}


# One text that is wrong.
def test_whatever_is_wrong_with_a_text_is_answered_in_its_place(ask: Ask, gte: Embedder):
    """Empty, no string, ids, half a surrogate pair, too long: an error there, and vectors for the others."""
    body = (
        b'{"on_error": "item", "truncate": false, "max_length": 9, "input": '
        b'["good", "", 7, null, true, {"a": 1}, [1, 2], [], "x\\ud800", "'
        + LONG.encode()
        + b'", {"text": "good"}]}'
    )
    data = ask("/v1/encode", body).json()["data"]
    assert [item["index"] for item in data] == list(range(11))
    assert {item["index"]: item["error"]["code"] for item in data if "error" in item} == {
        1: "empty_input",
        2: "invalid_type",
        3: "invalid_type",
        4: "invalid_type",
        5: "invalid_type",
        6: "invalid_type",
        7: "invalid_type",
        8: "invalid_unicode",
        9: "text_too_long",
    }
    assert all(item["error"]["param"] == f"input[{item['index']}]" for item in data if "error" in item)
    for index in (0, 10):
        assert np.array_equal(np.array(data[index]["embedding"], np.float32), gte.encode("good").dense[0])
    (alone,) = ask("/v1/encode", b'{"input": "\\ud800", "on_error": "item"}').json()["data"]
    assert alone["error"]["code"] == "invalid_unicode"
    assert "errors=" not in alone["error"]["message"]  # that is the library's way out
    for elsewhere in (
        b'{"input": "a", "on_error": "item", "prompt": "\\ud800"}',
        b'{"input": "\\ud800"}',
        b'{"input": ["\\ud800"], "on_error": "item", "x\\ud800": 1}',
    ):
        refused = ask("/v1/encode", elsewhere)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_unicode")


def test_the_same_in_every_place(ask: Ask, gte: Embedder):
    """A text as an object, in the words of Jina, llama.cpp and Cohere, is that text, alone and in lists."""
    want = gte.encode(TEXT).dense[0]
    forms: list[Any] = [
        {"text": TEXT},
        {"prompt_string": TEXT},
        {"content": [{"type": "text", "text": TEXT[:7]}, {"type": "text", "text": TEXT[7:]}]},
    ]
    for form in (*forms, *([each] for each in forms)):
        assert np.array_equal(vector(ask("/v1/embeddings", {"input": form})), want)
    bad: Any
    for bad in ({"image": "x"}, {"content": "x"}, {"content": []}, {"content": [{"type": "input_audio"}]}):
        assert ask("/v1/embeddings", {"input": [bad]}).json()["error"]["param"] == "input[0]"


# One address for everything.
def test_the_body_tells_the_dialect_at_the_root_and_for_sagemaker(
    ask: Ask, models: list[ServedModel], gte: Embedder
):
    dense = gte.encode(TEXT).dense[0]
    for path in ("/", "/invocations"):
        assert np.array_equal(np.array(ask(path, {"inputs": TEXT}).json()[0], np.float32), dense)
        assert np.array_equal(vector(ask(path, {"input": TEXT})), dense)
        (best, _) = ask(path, {"query": "q", "texts": ["a", "b"]}).json()
        assert best.keys() == {"index", "score"}
        assert ranks(ask(path, {"query": "q", "documents": ["a"]}))[0][0] == 0
        assert len(ask(path, {"queries": "a", "documents": ["b", "c"]}).json()["data"]) == 2
        assert np.array_equal(
            np.array(ask(path, {"texts": [TEXT]}).json()["embeddings"]["float"][0], np.float32), dense
        )
        assert ask(path, {"input": ""}).json()["error"]["code"] == "empty_input"
        assert ask(path, {"inputs": ""}).json()["error_type"] == "Empty"
        assert ask(path, {}).json()["error_type"] == "Validation"
        # A server with nothing but a reranker, as TEI has it.
        (alone,) = asked(models[1:], (path, {"query": "q", "texts": ["a", "b"]}))
        assert [item.keys() for item in alone.json()] == [{"index", "score"}] * 2


def test_null_tells_no_dialect(ask: Ask, gte: Embedder):
    """Clients that write all fields of a type send null for those that they do not mean."""
    ranks = {"query": "q", "documents": [1], "texts": None}
    refused = ask("/rerank", ranks)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "documents[0]")
    answer = ask("/invocations", {"inputs": None, "query": None, "input": TEXT})
    assert np.array_equal(vector(answer), gte.encode(TEXT).dense[0])


def test_hub_parameters_are_those_beside_them(ask: Ask, gte: Embedder):
    got = ask("/", {"inputs": TEXT, "parameters": {"dimensions": 40, "truncate": "true"}}).json()[0]
    assert np.array_equal(np.array(got, np.float32), gte.encode(TEXT, dim=40).dense[0])
    both = ask("/", {"inputs": TEXT, "dimensions": 9, "parameters": {"dimensions": 8}})
    assert (both.status_code, both.json()["error_type"]) == (422, "Validation")
    assert ask("/", {"inputs": TEXT, "parameters": {"dimensions": [8]}}).status_code == 422


def test_tokens_as_vllm_and_llama_cpp_list_them(ask: Ask, gte: Embedder, models: list[ServedModel]):
    ids = [token for token, _ in gte.tokenize(TEXT)]
    vllm = ask("/tokenize", {"model": "m", "prompt": TEXT, "return_token_strs": True}).json()
    assert (vllm["tokens"], vllm["count"], vllm["max_model_len"]) == (ids, len(ids), 8192)
    assert len(vllm["token_strs"]) == len(ids)
    bare = {"prompt": TEXT, "add_special_tokens": False}
    assert ask("/tokenize", bare).json()["tokens"] == ids[1:-1]
    assert ask("/tokenize", {"content": TEXT}).json() == {"tokens": ids[1:-1]}
    assert ask("/tokenize", {"content": TEXT, "add_special": True}).json() == {"tokens": ids}
    pieces = ask("/tokenize", {"content": TEXT, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == ids[1:-1]
    # Fields that mean the same, in the words of another.
    assert ask("/tokenize", {"content": TEXT, "return_token_strs": True}).json()["tokens"] == pieces
    assert ask("/tokenize", {"prompt": TEXT, "with_pieces": True}).json() == vllm
    tei = ask("/tokenize", {"inputs": TEXT, "add_special": False}).json()[0]
    assert [piece["id"] for piece in tei] == ids[1:-1]
    assert ask("/tokenize", {"content": TEXT, "prompt_name": "poem"}).status_code == 422
    back = ask("/detokenize", {"tokens": ids[1:-1]}).json()
    assert back["prompt"] == back["content"] == ask("/decode", {"ids": ids[1:-1]}).json()[0]
    assert ask("/tokenize", {"prompt": TEXT, "inputs": TEXT}).status_code == 422
    (alone,) = asked(models[1:], ("/tokenize", {"prompt": TEXT}))
    assert alone.status_code == 200


# What the description promises.
def test_the_description_is_true(ask: Ask):
    """Unknown fields are refused only with --strict; fates are told; statuses are the dialects'."""
    described = asked_for_description(ask)
    schemas = described["components"]["schemas"]
    assert "additionalProperties" not in schemas["TokenizeRequest"]
    assert (
        asked_for_description(ask, strict=True)["components"]["schemas"]["TokenizeRequest"][
            "additionalProperties"
        ]
        is False
    )
    fields = schemas["EmbeddingsRequest"]["properties"]
    assert fields["late_chunking"]["enum"] == [None, False]
    assert fields["priority"]["description"].startswith("Without effect")
    posts = {
        path: set(route["post"]["responses"]) for path, route in described["paths"].items() if "post" in route
    }
    assert "422" not in posts["/v2/rerank"] | posts["/v1/embeddings"]
    assert {"400", "422"} <= posts["/rerank"] & posts["/invocations"]
    assert "413" not in described["paths"]["/metrics"]["get"]["responses"]
    assert "401" not in described["paths"]["/health"]["get"]["responses"]
    assert "404" in described["paths"]["/v1/models/{id}"]["get"]["responses"]
    assert described["paths"].keys() >= REQUIRED.keys() | OTHER_WAYS


def asked_for_description(ask: Ask, **options: Any) -> Any:
    return json.loads(ask("/openapi.json", None, **options).text)


# Addresses.
@pytest.mark.parametrize("prefix", ["", "/gte", "/api/v2"])
def test_a_prefix_and_slashes_too_many(models: list[ServedModel], prefix: str):
    """Addresses are put together from parts that end or begin with a slash. Probes know no prefix."""
    good = {"input": "a"}
    targets = [
        f"{prefix}/v1/embeddings",
        f"{prefix}//v1/embeddings",
        f"{prefix}/v1//embeddings/",
        f"{prefix}/v1/embeddings//",
    ]
    answers = asked(models, *((target, good) for target in targets), url_prefix=prefix)
    assert [answer.status_code for answer in answers] == [200] * 4
    probes = [
        ("/health", None),
        ("/metrics/", None),
        (f"{prefix}/health", None),
        (f"{prefix}/v1/models/embedder", None),
    ]
    assert [answer.status_code for answer in asked(models, *probes, url_prefix=prefix)] == [200] * 4
    if prefix:
        outside = [("/v1/embeddings", good), (f"{prefix}x/v1/embeddings", good), ("/", {"inputs": "a"})]
        refused = asked(models, *outside, url_prefix=prefix)
        assert [answer.status_code for answer in refused] == [404] * 3
        assert f"all paths begin with {prefix}/" in refused[0].json()["error"]["message"]
        wrong = [
            (f"{prefix}/nope", good),
            (f"{prefix}/api/v1/embeddings/v1/embeddings", good),
            (f"{prefix}/x/embed", good),
        ]
        words = [f"GET {prefix}/openapi.json", "this service", f"is it {prefix}/embed?"]
        for answer, there in zip(asked(models, *wrong, url_prefix=prefix), words, strict=True):
            assert there in answer.text
        page, moved = asked(models, (f"{prefix}/", None), (prefix, None), url_prefix=prefix)
        assert (page.status_code, moved.status_code, moved.headers["location"]) == (200, 308, f"{prefix}/")
        (described,) = asked(models, (f"{prefix}/openapi.json", None), url_prefix=prefix)
        assert described.json()["servers"] == [{"url": prefix}]
