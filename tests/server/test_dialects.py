"""Every dialect against the library: the same bits, the counts, the shape its clients read, its errors."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import DATA, Golden
from mlm import write_mlm
from serving import Process, gated
from spoil import change_manifest

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build

TEXTS = ["What is the capital of China?", "北京是中华人民共和国的首都。", "Привет, мир!", "a " * 40, "x"]
LONG = "word " * 9000


def floats(rows: Any) -> np.ndarray:
    return np.array(rows, np.float32)


def from_base64(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_native_gives_the_library_s_bits(server: Process, gte: Embedder):
    """Dense and sparse vectors of the server are bitwise those of `Embedder.encode`; so are the counts."""
    want = gte.encode(TEXTS)
    answer = server.post("/v1/encode", {"input": TEXTS, "sparse": True}).json()
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3, 4]
    for row, item in enumerate(answer["data"]):
        np.testing.assert_array_equal(floats(item["embedding"]), want.dense[row])
        assert item["sparse"]["indices"] == want.sparse[row].indices.tolist()
        np.testing.assert_array_equal(floats(item["sparse"]["values"]), want.sparse[row].values)
        assert (item["tokens"], item["truncated"]) == (want.tokens[row], False)
    assert answer["usage"] == {
        "prompt_tokens": int(want.tokens.sum()),
        "total_tokens": int(want.tokens.sum()),
        "truncated": 0,
    }
    assert answer["model"] == gte.manifest.model
    assert answer["revision"] == gte.info["bundle"]


def test_sparse_formats_say_the_same(server: Process, gte: Embedder):
    """Ids, pairs, objects and both agree; strings are the library's `token_weights`."""
    text = "Hello hello, world! 北京"
    by_format = {
        form: server.post(
            "/v1/encode", {"input": text, "dense": False, "sparse": True, "sparse_format": form}
        ).json()["data"][0]["sparse"]
        for form in ("object", "list", "ids", "tokens", "both")
    }
    vector = gte.encode(text).sparse[0]
    want = vector.as_dict()
    assert {int(key): np.float32(value) for key, value in by_format["ids"].items()} == {
        k: np.float32(v) for k, v in want.items()
    }
    assert [(pair["index"], np.float32(pair["value"])) for pair in by_format["list"]] == list(
        zip(vector.indices.tolist(), vector.values, strict=True)
    )
    assert by_format["object"]["indices"] == by_format["both"]["indices"] == vector.indices.tolist()
    assert len(by_format["both"]["tokens"]) == len(vector)
    assert {k: np.float32(v) for k, v in by_format["tokens"].items()} == {
        k: np.float32(v) for k, v in gte.token_weights(text)[0].items()
    }


def test_tokens_stand_where_they_are_in_the_text(server: Process, gte: Embedder):
    """`tokens: true` gives every token's place and weight; the largest weight per id is the sparse vector."""
    text = "  Hello, мир 北京 😀"
    item = server.post("/v1/encode", {"input": text, "dense": False, "tokens": True}).json()["data"][0]
    pieces = item["token_weights"]
    assert len(pieces) == item["tokens"]
    assert [piece["id"] for piece in pieces] == [token for token, _ in gte.tokenize(text)]
    assert all(piece["special"] or piece["text"] == text[piece["start"] : piece["stop"]] for piece in pieces)
    largest: dict[int, float] = {}
    for piece in pieces:
        if piece["weight"] > 0:
            largest[piece["id"]] = max(largest.get(piece["id"], 0), piece["weight"])
    vector = gte.encode(text).sparse[0]
    assert {k: np.float32(v) for k, v in largest.items()} == {
        k: np.float32(v) for k, v in vector.as_dict().items()
    }


def test_a_cut_text_says_so_everywhere(server: Process):
    """Native per text, OpenAI in usage, TEI in a header; tokens of a cut text are as many as are listed."""
    native = server.post("/v1/encode", {"input": [LONG, "x"], "max_length": 20, "tokens": True}).json()
    assert [(item["tokens"], item["truncated"]) for item in native["data"]] == [
        (20, True),
        (native["data"][1]["tokens"], False),
    ]
    assert len(native["data"][0]["token_weights"]) == 20
    assert native["usage"]["truncated"] == 1
    openai = server.post("/v1/embeddings", {"input": LONG, "model": "m"})
    assert openai.json()["usage"]["truncated"] == 1
    assert openai.json()["usage"]["prompt_tokens"] == 8192
    assert server.post("/embed", {"inputs": LONG}).headers["x-truncated"] == "1"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai(server: Process, gte: Embedder, path: str):
    """Floats and base64 are the same bits; dimensions cut and normalise; null means absent."""
    want = gte.encode(TEXTS)
    for encoding, read in (("float", floats), (None, floats), ("base64", from_base64)):
        answer = server.post(
            path,
            {"input": TEXTS, "model": "any", "encoding_format": encoding, "user": "u", "dimensions": None},
        ).json()
        assert (answer["object"], answer["model"]) == ("list", gte.manifest.model)
        assert [(d["object"], d["index"]) for d in answer["data"]] == [("embedding", i) for i in range(5)]
        for row, item in enumerate(answer["data"]):
            np.testing.assert_array_equal(read(item["embedding"]), want.dense[row])
        assert answer["usage"]["total_tokens"] == want.tokens.sum()
    short = floats(server.post(path, {"input": TEXTS[0], "dimensions": 32}).json()["data"][0]["embedding"])
    np.testing.assert_array_equal(short, gte.encode(TEXTS[0], dim=32).dense[0])
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-6)


def test_infinity_s_own(server: Process, gte: Embedder):
    """`/embeddings` adds id and created, takes 0 for all dimensions and its client's name for any model."""
    answer = server.post(
        "/embeddings", {"input": "a", "model": "default/not-specified", "dimensions": 0, "modality": "text"}
    ).json()
    assert answer["id"].startswith("infinity-")
    assert answer["created"] > 1e9
    assert len(answer["data"][0]["embedding"]) == gte.dim
    models = server.get("/models").json()["data"]
    assert [m["capabilities"] for m in models] == [["embed"], ["rerank"]]
    assert models[0]["stats"]["queue_absolute"] == 0


def test_models(server: Process, gte: Embedder):
    listed = server.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == [gte.manifest.model, "gte-tiny-reranker"]
    assert server.get(f"/v1/models/{gte.manifest.model}").json()["object"] == "model"
    assert server.get("/v1/models/nope").status_code == 404


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei_embed(server: Process, gte: Embedder, path: str):
    """A bare list of lists, also for one string; counts in headers, whole milliseconds."""
    answer = server.post(path, {"inputs": TEXTS, "normalize": True, "truncate": None, "prompt_name": None})
    np.testing.assert_array_equal(floats(answer.json()), gte.encode(TEXTS).dense)
    assert int(answer.headers["x-compute-tokens"]) == gte.encode(TEXTS).tokens.sum()
    assert int(answer.headers["x-compute-characters"]) == sum(map(len, TEXTS))
    assert answer.headers["x-compute-type"] == "cpu"
    assert all(
        answer.headers[f"x-{name}-time"].isdigit() for name in ("total", "tokenization", "queue", "inference")
    )
    assert np.array(server.post(path, {"inputs": "one"}).json()).shape == (1, gte.dim)
    raw = floats(server.post(path, {"inputs": TEXTS[0], "normalize": False, "dimensions": 40}).json())
    np.testing.assert_array_equal(raw, gte.states(TEXTS[0], dim=40))


def test_tei_keeps_the_end_when_told_to(server: Process, gte: Embedder):
    """truncation_direction Left: the vector is that of the last tokens."""
    text = " ".join(f"w{i}" for i in range(9000))
    left = floats(server.post("/embed", {"inputs": text, "truncation_direction": "Left"}).json())
    right = floats(server.post("/embed", {"inputs": text}).json())
    np.testing.assert_array_equal(right, gte.encode(text).dense)
    assert not np.array_equal(left, right)
    refused = server.post("/embed", {"inputs": text, "truncation_direction": "Left", "truncate": False})
    assert refused.status_code == 422


def test_tei_sparse_and_similarity(server: Process, gte: Embedder):
    vectors = gte.encode(TEXTS).sparse
    answer = server.post("/embed_sparse", {"inputs": TEXTS}).json()
    for row, pairs in enumerate(answer):
        assert [pair["index"] for pair in pairs] == vectors[row].indices.tolist()
        np.testing.assert_array_equal(floats([pair["value"] for pair in pairs]), vectors[row].values)
    dense = gte.encode(TEXTS).dense
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    for path in ("/similarity", "/"):
        np.testing.assert_allclose(
            server.post(path, {"inputs": inputs}).json(), dense[1:] @ dense[0], atol=1e-6
        )


def test_tei_tokenize_and_decode(server: Process, gte: Embedder):
    """Tokens with their places in characters, and back."""
    text = "Hello, мир 北京"
    for add in (True, False):
        pieces = server.post("/tokenize", {"inputs": text, "add_special_tokens": add}).json()[0]
        ids = [token for token, _ in gte.tokenize(text)]
        assert [piece["id"] for piece in pieces] == (ids if add else ids[1:-1])
        assert all(
            piece["special"] or text[piece["start"] : piece["stop"]] == piece["text"] for piece in pieces
        )
    ids = [piece["id"] for piece in server.post("/tokenize", {"inputs": text}).json()[0]]
    flat, nested = (
        server.post("/decode", {"ids": ids}).json(),
        server.post("/decode", {"ids": [ids, ids]}).json(),
    )
    assert flat == nested[:1]
    assert len(nested) == 2
    assert server.post("/decode", {"ids": [10**9]}).status_code == 422
    assert server.post("/decode", {"ids": [-1]}).status_code == 422
    many: list[Any]
    for many in ([5] * 300_001, [[]] * 300_001, [[5] * 200_000, [5] * 200_000]):
        refused = server.post("/decode", {"ids": many})
        assert refused.status_code == 422
        assert "--max-request-tokens" in refused.json()["error"]


def test_tei_info_and_what_cannot_be(server: Process):
    info = server.get("/info").json()
    assert info["max_input_length"] == 8192
    assert info["max_client_batch_size"] == 2048


def test_prompts(golden: Golden, tmp_path: Path):
    """By name where the dialect has a field, else the default one. An error lists the names."""
    bundle = tmp_path / "bundle"
    build(
        golden.checkpoint, bundle, graphs=golden.graphs, prompts={"query": "query: ", "passage": "passage: "}
    )
    change_manifest(bundle, lambda raw: raw.update(default_prompt="passage"))
    with gated(bundle) as (here, _), Embedder.open(bundle) as gte:
        query, default, none = (gte.encode(TEXTS, prompt_name=name).dense for name in ("query", None, ""))
        assert not np.array_equal(query, default)

        def openai(path: str, **more: Any) -> np.ndarray:
            return floats(
                [
                    item["embedding"]
                    for item in here.post(path, {"input": TEXTS, "model": "m", **more}).json()["data"]
                ]
            )

        assert np.array_equal(openai("/v1/embeddings"), default)
        assert np.array_equal(openai("/embeddings"), default)
        for name, want in (("query", query), (None, default), ("", none)):
            assert np.array_equal(openai("/v1/encode", prompt=name), want)
            assert np.array_equal(
                floats(here.post("/embed", {"inputs": TEXTS, "prompt_name": name}).json()), want
            )
        cohere = here.post("/v2/embed", {"texts": TEXTS, "model": "m", "embedding_types": ["float"]}).json()
        assert np.array_equal(floats(cohere["embeddings"]["float"]), default)
        (pieces,) = here.post("/tokenize", {"inputs": "a", "prompt_name": "query"}).json()
        assert [piece["id"] for piece in pieces] == [
            token for token, _ in gte.tokenize("a", prompt_name="query")
        ]
        text = "Hello, мир 北京"
        (item,) = here.post("/v1/encode", {"input": text, "prompt": "query", "tokens": True}).json()["data"]
        pieces = item["token_weights"]
        assert [piece["id"] for piece in pieces] == [
            token for token, _ in gte.tokenize(text, prompt_name="query")
        ]
        placed = [piece for piece in pieces if piece["start"] is not None]
        assert all(
            text[piece["start"] : piece["stop"]] == piece["text"].removeprefix(" ") for piece in placed
        )
        assert (placed[0]["start"], placed[-1]["stop"]) == (0, len(text))
        assert [piece["id"] for piece in pieces if not piece["special"] and piece["stop"] is None] == [
            token for token, _ in gte.tokenize("query:", prompt_name="")[1:-1]
        ]
        refused = here.post("/v1/encode", {"input": "a", "prompt": "other"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_prompt")
        assert "query, passage" in refused.json()["error"]["message"]


def test_tei_embed_all(server: Process, gte: Embedder):
    """A list of vectors for each text, even for one string: one of every token as run, not normalised."""
    states = gte.token_vectors(TEXTS)
    answer = server.post("/embed_all", {"inputs": TEXTS})
    assert [np.array_equal(floats(row), state) for row, state in zip(answer.json(), states, strict=True)] == [
        True
    ] * len(TEXTS)
    assert answer.headers["x-compute-tokens"] == str(sum(map(len, states)))
    asked = server.post("/embed_all", {"inputs": TEXTS[0], "normalize": True})  # TEI ignores it in silence
    (one,) = asked.json()
    assert np.array_equal(floats(one), states[0])
    assert "normalize has no effect" in asked.headers["x-gte-warning"]
    long = "word " * 9000
    cut = server.post("/embed_all", {"inputs": long})
    assert np.array_equal(floats(cut.json()[0]), gte.token_vectors(long)[0])
    assert cut.headers["x-truncated"] == "1"
    refused = server.post("/embed_all", {"inputs": long, "truncate": False})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    many = server.post("/embed_all", {"inputs": [long, "a"]})
    assert (many.status_code, many.json()["error_type"]) == (422, "Validation")
    assert "--max-token-vectors" in many.json()["error"]
    assert server.post("/embed_all", {"inputs": []}).status_code == 400
    end = server.post("/embed_all", {"inputs": long + "end", "truncation_direction": "Left"}).json()[0]
    assert len(end) == 8192


def test_embed_all_beside_others_changes_nothing(server: Process, gte: Embedder):
    """Requests of both kinds at the same time: each gets its own answer."""
    states, dense = gte.token_vectors(TEXTS), gte.encode(TEXTS).dense
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(server.post, "/embed_all" if n % 2 else "/embed", {"inputs": TEXTS})
            for n in range(24)
        ]
        for n, each in enumerate(asked):
            for row, want in zip(each.result().json(), states if n % 2 else dense, strict=True):
                assert np.array_equal(floats(row), want)


QUERY, DOCUMENTS = (
    "What is the capital of China?",
    ["To sort a list, call sorted().", "北京是中华人民共和国的首都。", "x", "x"],
)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_for_cohere_jina_vllm_and_infinity(server: Process, reranker: Reranker, path: str):
    """The library's order and scores, 0 to 1 unless raw; top_n, documents back as objects, ties by index."""
    want = reranker.rank(QUERY, DOCUMENTS, sigmoid=True)
    body = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
    answer = server.post(path, body).json()
    assert [(r["index"], np.float32(r["relevance_score"])) for r in answer["results"]] == [
        (r.index, np.float32(r.score)) for r in want
    ]
    assert all(("document" in result) == (path != "/v2/rerank") for result in answer["results"])
    assert answer["usage"]["total_tokens"] == reranker.evaluate([(QUERY, d) for d in DOCUMENTS]).tokens.sum()
    best = server.post(path, body | {"top_n": 2, "return_documents": True, "raw_scores": True}).json()[
        "results"
    ]
    raw = reranker.rank(QUERY, DOCUMENTS, top_k=2)
    assert [(r["index"], np.float32(r["relevance_score"])) for r in best] == [
        (r.index, np.float32(r.score)) for r in raw
    ]
    assert [r["document"] for r in best] == [{"text": DOCUMENTS[r.index]} for r in raw]
    as_objects = server.post(
        path, body | {"documents": [{"text": d, "id": 1} for d in DOCUMENTS], "top_n": 0}
    ).json()
    assert [(r["index"], r["relevance_score"]) for r in as_objects["results"]] == [
        (r["index"], r["relevance_score"]) for r in answer["results"]
    ]


def test_rerank_for_tei(server: Process, reranker: Reranker):
    """`texts` in the body: a bare list, best first."""
    answer = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "return_text": True})
    want = reranker.rank(QUERY, DOCUMENTS, sigmoid=True)
    assert [(r["index"], np.float32(r["score"]), r["text"]) for r in answer.json()] == [
        (r.index, np.float32(r.score), DOCUMENTS[r.index]) for r in want
    ]
    assert "x-compute-tokens" in answer.headers
    assert answer.headers["x-compute-characters"] == str(
        sum(len(QUERY) + len(document) for document in DOCUMENTS)
    )


def test_rerank_errors_speak_the_body_s_dialect(server: Process):
    tei = server.post("/rerank", {"query": "a", "texts": []})
    assert (tei.status_code, tei.json()["error_type"]) == (400, "Empty")
    cohere = server.post("/rerank", {"query": "a", "documents": []})
    assert cohere.status_code == 400
    assert cohere.json()["message"]
    assert server.post("/rerank", {"query": "a"}).status_code == 422
    assert server.post("/rerank", {"query": "a", "documents": ["b"], "texts": ["b"]}).status_code == 422
    many = server.post("/v2/rerank", {"query": "a", "documents": ["b"] * 1001})
    assert (many.status_code, many.json()["code"]) == (400, "too_many_inputs")
    assert server.post("/rerank", {"query": "", "documents": ["b"]}).json()["code"] == "empty_input"
    assert (
        server.post("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}).json()["code"]
        == "invalid_value"
    )


def test_cohere_embed(server: Process, gte: Embedder):
    """All embedding types come from one vector; output_dimension cuts it; START keeps a long text's end."""
    dim = gte.dim // 8 * 8
    kinds = ["float", "base64", "binary", "ubinary"]
    body = {
        "model": "m",
        "texts": TEXTS,
        "input_type": "search_query",
        "embedding_types": kinds,
        "output_dimension": dim,
    }
    answer = server.post("/v2/embed", body).json()
    want = gte.encode(TEXTS, dim=dim).dense
    found = answer["embeddings"]
    np.testing.assert_array_equal(floats(found["float"]), want)
    np.testing.assert_array_equal([from_base64(row) for row in found["base64"]], want)
    bits = np.unpackbits(np.array(found["ubinary"], np.uint8), axis=1)
    np.testing.assert_array_equal(bits, want > 0)
    np.testing.assert_array_equal(np.array(found["binary"]) + 128, found["ubinary"])
    assert answer["meta"]["billed_units"]["input_tokens"] == gte.encode(TEXTS).tokens.sum()
    assert server.post("/v2/embed", {"texts": [LONG], "truncate": "NONE"}).json()["code"] == "text_too_long"


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_score_is_the_library_s(server: Process, gte: Embedder, names: tuple[str, str]):
    """vLLM's shapes, 1 to N and N to N: cosines, and hybrid scores with our weights."""
    one, many = names
    pairs = [(TEXTS[0], text) for text in TEXTS]
    answer = server.post("/v1/score", {one: TEXTS[0], many: TEXTS}).json()
    np.testing.assert_allclose([d["score"] for d in answer["data"]], gte.score(pairs, 1.0, 0.0), atol=1e-6)
    weighed = server.post(
        "/score", {one: TEXTS[::-1], many: TEXTS, "dense_weight": 0.5, "sparse_weight": 0.3, "dimensions": 32}
    ).json()
    want = gte.score(zip(TEXTS[::-1], TEXTS, strict=True), 0.5, 0.3, dim=32)
    np.testing.assert_allclose([d["score"] for d in weighed["data"]], want, atol=1e-6)
    assert server.post("/v1/score", {one: TEXTS[:2], many: TEXTS}).json()["error"]["code"] == "invalid_value"


def test_score_by_a_reranker_when_it_is_named(server: Process, reranker: Reranker):
    answer = server.post(
        "/v1/score", {"model": "gte-tiny-reranker", "text_1": QUERY, "text_2": DOCUMENTS}
    ).json()
    want = reranker.score([(QUERY, d) for d in DOCUMENTS], sigmoid=True)
    np.testing.assert_array_equal(floats([d["score"] for d in answer["data"]]), want)


def test_one_bad_text_alone_when_asked(server: Process, gte: Embedder):
    """`on_error: item` gives an error in the place of the bad text, and the others their vectors."""
    body = (
        b'{"input": ["good", "\\u0061", "'
        + b"word " * 60
        + b'"], "truncate": false, "max_length": 20, "on_error": "item"}'
    )
    data = server.post("/v1/encode", body).json()["data"]
    assert [("error" in item, item["index"]) for item in data] == [(False, 0), (False, 1), (True, 2)]
    assert data[2]["error"]["code"] == "text_too_long"
    assert data[2]["error"]["param"] == "input[2]"
    np.testing.assert_array_equal(floats(data[0]["embedding"]), gte.encode("good").dense[0])


def test_the_wrong_kind_of_model(server: Process):
    named = server.post("/v1/encode", {"input": "a", "model": "gte-tiny-reranker"})
    assert (named.status_code, named.json()["error"]["code"]) == (422, "wrong_model_kind")
    assert server.post("/v1/embeddings", {"input": "a", "model": "gte-tiny-reranker"}).status_code == 400


def test_warnings_and_ids_in_headers(server: Process):
    """Unknown fields and untrained dimensions give warnings; a good request id comes back, a bad one not."""
    answer = server.post(
        "/v1/encode", {"input": "a", "colour": "red", "dimensions": 1}, headers={"x-request-id": "my-id.7"}
    )
    assert answer.headers["x-request-id"] == "my-id.7"
    warned = answer.headers["x-gte-warning"]
    assert "colour" in warned
    assert "dimensions=1" in warned
    assert (
        server.post("/v1/encode", {"input": "a"}, headers={"x-request-id": "a b"}).headers["x-request-id"]
        != "a b"
    )
    for name in ("tokenization", "queue", "inference", "total"):
        assert float(answer.headers[f"x-{name}-time"]) >= 0


def test_operation(server: Process):
    """Health in three words, and a description that names every route."""
    assert server.get("/health").json()["status"] == "ready"
    assert server.get("/health").json()["unix"] > 1e9
    assert (
        server.get("/ping").status_code
        == server.get("/health/ready").status_code
        == server.get("/health/live").status_code
        == 200
    )
    described = server.get("/openapi.json").json()
    assert {"/v1/encode", "/v1/embeddings", "/embed_sparse", "/rerank", "/v2/embed", "/metrics"} <= described[
        "paths"
    ].keys()
    assert described["openapi"].startswith("3.1")
    before = server.metric("gte_tokens_total")
    tokens = server.post("/v1/encode", {"input": TEXTS}).json()["usage"]["total_tokens"]
    assert server.metric("gte_tokens_total") == before + tokens
    assert server.metric("gte_in_flight_tokens") == 0


@pytest.mark.slow
def test_expansions(tmp_path: Path):
    """A model with a masked-language-model head gives its expansions on every sparse route."""
    build(
        write_mlm(tmp_path / "checkpoint"),
        tmp_path / "bundle",
        graphs=DATA / "gte-tiny-random" / "graphs",
        name="splade",
    )
    process = Process(tmp_path, "--model", str(tmp_path / "bundle"))
    try:
        with Embedder.open(tmp_path / "bundle") as gte:
            want = gte.encode(TEXTS, dense=False).sparse
        data = process.post("/v1/encode", {"input": TEXTS, "dense": False, "sparse": True}).json()["data"]
        lists = process.post("/embed_sparse", {"inputs": TEXTS}).json()
        for vector, item, pairs in zip(want, data, lists, strict=True):
            assert item["sparse"]["indices"] == vector.indices.tolist()
            np.testing.assert_array_equal(floats(item["sparse"]["values"]), vector.values)
            assert [pair["index"] for pair in pairs] == vector.indices.tolist()
        tokens = process.post("/v1/encode", {"input": TEXTS[0], "tokens": True}).json()["data"][0]
        assert [piece["id"] for piece in tokens["token_weights"]] == want[0].indices.tolist()
    finally:
        assert process.stop() == 0
