"""Alibaba's cloud API at its own addresses: shapes as its clients read them, errors as they show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from golden import Golden
from serving import Process, gated

from gte_runtime import Embedder, Reranker
from gte_runtime.building.build import build
from gte_runtime.scoring import sigmoid
from gte_runtime.server.dialects import dashscope
from gte_runtime.server.refusals import CODES, Refusal

EMBED = "/api/v1/services/embeddings/text-embedding/text-embedding"
RERANK = "/api/v1/services/rerank/text-rerank/text-rerank"
FLAT_RERANK = "/compatible-api/v1/reranks"
FLAT_EMBED = "/compatible-mode/v1/embeddings"
TEXTS = ["What is the capital of China?", "北京是中华人民共和国的首都。", "Привет, мир!", "a " * 40, "x"]
QUERY, DOCUMENTS = "capital of China", ["Quicksort splits.", "Beijing is the capital.", "北京", "Beijing"]


def ask(texts: Any, model: str = "text-embedding-v3", **parameters: Any) -> dict[str, Any]:
    return {"model": model, "input": {"texts": texts}, "parameters": parameters}


def rank(*, model: str = "gte-rerank", documents: Any = DOCUMENTS, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "input": {"query": QUERY, "documents": documents}, "parameters": parameters}


@pytest.mark.parametrize("kind", [None, "dense", "sparse", "dense&sparse"])
def test_vectors_are_the_library_s(server: Process, gte: Embedder, kind: str | None):
    """Dense and sparse, each only where asked for, bit for bit, with the text of every sparse token."""
    want = gte.encode(TEXTS)
    answer = server.post(EMBED, ask(TEXTS, **({} if kind is None else {"output_type": kind})))
    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == {"output", "usage", "request_id"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["usage"] == {"total_tokens": want.tokens.sum(), "truncated": 0}
    items = body["output"]["embeddings"]
    kinds = (kind or "dense").split("&")
    names = {"dense": "embedding", "sparse": "sparse_embedding"}
    for row, item in enumerate(items):
        assert item["text_index"] == row
        assert item.keys() == {"text_index", *(names[each] for each in kinds)}
        if "dense" in kinds:
            np.testing.assert_array_equal(np.array(item["embedding"], np.float32), want.dense[row])
        if "sparse" in kinds:
            sparse = item["sparse_embedding"]
            assert [one["index"] for one in sparse] == want.sparse[row].indices.tolist()
            np.testing.assert_array_equal(
                np.array([one["value"] for one in sparse], np.float32), want.sparse[row].values
            )
            weights: dict[str, float] = {}
            for one in sparse:  # two tokens may read alike; the larger weight counts
                weights[one["token"]] = max(one["value"], weights.get(one["token"], 0))
            library = gte.token_weights(TEXTS[row])[0]
            assert {token: np.float32(w) for token, w in weights.items()} == {
                token: np.float32(w) for token, w in library.items()
            }


def test_a_dimension_cuts_and_normalises(server: Process, gte: Embedder):
    answer = server.post(EMBED, ask(TEXTS[0], dimension=32, text_type="query")).json()
    np.testing.assert_array_equal(
        np.array(answer["output"]["embeddings"][0]["embedding"], np.float32),
        gte.encode(TEXTS[0], dim=32).dense[0],
    )
    told = server.post(EMBED, ask("x", dimension=1024, output_type="sparse"))
    assert told.status_code == 200
    assert "parameters.dimension" in told.headers["x-gte-warning"]


def test_the_type_of_a_text_chooses_its_prompt(golden: Golden, tmp_path: Path):
    """Where the model has prompts; GTE's own models have none."""
    bundle = tmp_path / "bundle"
    prompts = {"query": "query: ", "passage": "passage: "}
    build(golden.checkpoint, bundle, graphs=golden.graphs, prompts=prompts)
    with gated(bundle) as (here, _), Embedder.open(bundle) as gte:
        for text_type, name in (("query", "query"), ("document", "passage"), (None, "")):
            answer = here.post(EMBED, ask(TEXTS, text_type=text_type)).json()
            np.testing.assert_array_equal(
                np.array([item["embedding"] for item in answer["output"]["embeddings"]], np.float32),
                gte.encode(TEXTS, prompt_name=name).dense,
            )


def test_more_texts_than_the_cloud_takes(server: Process, gte: Embedder):
    """The cloud's limits are 10 or 25 texts; here it is --max-inputs, whatever the model's name is."""
    texts = [f"text {i}" for i in range(60)]
    items = server.post(EMBED, ask(texts)).json()["output"]["embeddings"]
    got = np.array([item["embedding"] for item in items], np.float32)
    np.testing.assert_array_equal(got, gte.encode(texts).dense)
    assert [item["text_index"] for item in items] == list(range(60))


@pytest.mark.parametrize("model", [f"text-embedding-v{n}" for n in (1, 2, 3, 4)])
def test_the_cloud_s_names_of_models_are_fine(server: Process, model: str):
    assert server.post(EMBED, ask("x", model)).status_code == 200


def test_what_llama_index_sends(server: Process):
    """It puts the parameters of a call one level deeper; they are obeyed there, too."""
    deep = server.post(EMBED, ask("x", kwargs={"text_type": "query", "dimension": 32})).json()
    assert len(deep["output"]["embeddings"][0]["embedding"]) == 32
    both = server.post(EMBED, ask("x", dimension=16, kwargs={"dimension": 32})).json()
    assert len(both["output"]["embeddings"][0]["embedding"]) == 16
    wrong = server.post(EMBED, ask("x", kwargs={"text_type": "image"}))
    assert (wrong.status_code, wrong.json()["code"]) == (400, "InvalidParameter")


@pytest.mark.parametrize("model", ["gte-rerank", "gte-rerank-v2", "gte-tiny-reranker"])
def test_reranking_is_the_library_s(server: Process, reranker: Reranker, model: str):
    want = reranker.rank(QUERY, DOCUMENTS)
    body = server.post(RERANK, rank(model=model)).json()
    assert body.keys() == {"output", "usage", "request_id"}
    assert body["output"].keys() == {"results"}
    results = body["output"]["results"]
    assert [r["index"] for r in results] == [one.index for one in want]
    np.testing.assert_array_equal(
        np.array([r["relevance_score"] for r in results], np.float32),
        sigmoid(np.array([one.score for one in want], np.float32)),
    )
    assert all(r.keys() == {"index", "relevance_score"} for r in results)
    assert body["usage"]["total_tokens"] > 0
    flat = server.post(FLAT_RERANK, {"model": model, "query": QUERY, "documents": DOCUMENTS}).json()
    assert flat["results"] == results
    assert flat["usage"] == body["usage"]


def test_the_best_documents_with_their_texts(server: Process, reranker: Reranker):
    """A document may be an object with a text, as for the cloud's newer rerankers."""
    best = [one.index for one in reranker.rank(QUERY, DOCUMENTS)][:2]
    body = rank(top_n=2, return_documents=True, documents=[{"text": text} for text in DOCUMENTS])
    results = server.post(RERANK, body).json()["output"]["results"]
    assert [(r["index"], r["document"]) for r in results] == [(i, {"text": DOCUMENTS[i]}) for i in best]
    for top_n, count in ((0, 4), (None, 4), (99, 4), (1, 1)):
        assert len(server.post(RERANK, rank(top_n=top_n)).json()["output"]["results"]) == count


BAD = [
    (EMBED, {"input": {"texts": ["a", ""]}}, "InvalidParameter", "input.texts[1] is an empty string"),
    (EMBED, {"input": {"texts": []}}, "InvalidParameter", "input.texts is empty"),
    (EMBED, {"input": {"texts": ["a"] * 2049}}, "InvalidParameter", "(--max-inputs)"),
    (EMBED, {"input": {}}, "InvalidParameter", "the field input.texts is missing"),
    (EMBED, {}, "InvalidParameter", "the field input is missing"),
    (
        EMBED,
        {"input": {"url": "http://x/y"}},
        "InvalidParameter",
        "input.url: files of texts are not fetched",
    ),
    (EMBED, {"input": {"contents": [{"image": "x"}]}}, "InvalidParameter", "input.contents is not known"),
    (EMBED, {"input": {"texts": [1]}}, "InvalidParameter", "input.texts"),
    (EMBED, ask("x", dimension=10_000), "InvalidParameter", "parameters.dimension is 10000"),
    (EMBED, ask("x", dimension=0), "InvalidParameter", "parameters.dimension is 0"),
    (EMBED, ask("x", dimension="many"), "InvalidParameter", "parameters.dimension"),
    (EMBED, ask("x", output_type="sparse&dense"), "InvalidParameter", "parameters.output_type"),
    (EMBED, ask("x", text_type="passage"), "InvalidParameter", "parameters.text_type"),
    (EMBED, ask("x", instruct="Find it"), "InvalidParameter", "parameters.instruct: the model takes no"),
    (EMBED, ask("x", model="gte-tiny-reranker"), "InvalidParameter", "needs a model of kind embedder"),
    (RERANK, rank(documents=[]), "InvalidParameter", "input.documents is empty"),
    (RERANK, rank(documents=["a", 1]), "InvalidParameter", "input.documents[1]"),
    (RERANK, rank(documents=[{"image": "a"}]), "InvalidParameter", "input.documents[0]"),
    (RERANK, rank(documents=["a"] * 1001), "InvalidParameter", "(--max-documents)"),
    (RERANK, rank(top_n=-1), "InvalidParameter", "parameters.top_n "),
    (RERANK, rank(instruct="Rank it"), "InvalidParameter", "parameters.instruct"),
    (RERANK, {"input": {"query": "", "documents": ["a"]}}, "InvalidParameter", "input.query is an empty"),
    (RERANK, b"{", "InvalidParameter", "not JSON"),
]


@pytest.mark.parametrize(("path", "body", "code", "words"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_errors(server: Process, path: str, body: Any, code: str, words: str):
    """`code`, `message` and `request_id`; the message names the field by its whole path."""
    answer = server.post(path, body)
    error = answer.json()
    assert answer.status_code == 400
    assert error.keys() == {"code", "message", "request_id"}
    assert error["code"] == code
    assert words in error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]


def test_tasks_and_streams(server: Process):
    """A task is refused by the name of its header; a stream comes as a whole, and a warning says so."""
    refused = server.post(EMBED, ask("x"), headers={"x-dashscope-async": "enable"})
    assert refused.status_code == 400
    assert "x-dashscope-async: there are no tasks" in refused.json()["message"]
    for path, body in ((EMBED, ask("x")), (RERANK, rank())):
        whole = server.post(path, body, headers={"x-dashscope-sse": "enable"})
        assert whole.headers["content-type"] == "application/json"
        assert "x-dashscope-sse was ignored" in whole.headers["x-gte-warning"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "services/embeddings/multimodal-embedding/multimodal-embedding", 404, "images, sound"),
        ("GET", "tasks/7", 404, "there are no tasks here"),
        ("POST", "tasks/7/cancel", 404, "there are no tasks here"),
        ("POST", "services/aigc/text-generation/generation", 404, "not served here"),
        ("GET", "services/rerank/text-rerank/text-rerank", 405, "this path takes POST"),
        ("DELETE", "files/7", 405, "this path takes GET, POST"),
    ],
)
def test_other_services_are_refused_in_its_shape(
    server: Process, method: str, path: str, status: int, words: str
):
    """The package shows `message`, and nothing of errors in other shapes."""
    with httpx.Client(trust_env=False) as client:
        answer = client.request(method, f"{server.url}/api/v1/{path}", json={})
    assert answer.status_code == status
    assert answer.json().keys() == {"code", "message", "request_id"}
    assert words in answer.json()["message"]


def test_every_refusal_has_a_code_of_the_cloud_s():
    """Those of its documentation and of `dashscope.v2.errors`, by the status of the answer."""
    got = {}
    for code in CODES:
        refusal = Refusal(code, "words")
        status = dashscope.DIALECT.status(refusal)
        body = dashscope.DIALECT.body(refusal, status, "7")
        assert body == {"code": body["code"], "message": "words", "request_id": "7"}
        got[code] = (status, body["code"])
    assert got["unauthorized"] == (401, "InvalidApiKey")
    assert got["origin_not_allowed"] == (403, "AccessDenied")
    assert got["model_not_found"] == (404, "ModelNotFound")
    assert got["not_found"] == (404, "NotFound")
    assert got["payload_too_large"] == (413, "BadRequest.TooLarge")
    assert got["overloaded"] == (429, "Throttling")
    assert got["internal"] == (500, "InternalError")
    assert got["not_ready"] == (503, "ServiceUnavailable")
    assert got["deadline_exceeded"] == (504, "GatewayTimeout")
    rest = {code for status, code in got.values() if status in (400, 405, 415, 431)}
    assert rest == {"InvalidParameter"}


def test_the_compatible_mode_is_openai_s(server: Process, gte: Embedder):
    """The same vectors; errors as OpenAI's clients read them, with the cloud's `request_id` beside."""
    body = {"model": "text-embedding-v4", "input": TEXTS, "dimensions": 64, "encoding_format": "float"}
    answer = server.post(FLAT_EMBED, body).json()
    got = np.array([item["embedding"] for item in answer["data"]], np.float32)
    np.testing.assert_array_equal(got, gte.encode(TEXTS, dim=64).dense)
    assert server.get("/compatible-mode/v1/models").json() == server.get("/v1/models").json()
    for path, wrong, param in (
        (FLAT_EMBED, {"input": ["a", ""]}, "input[1]"),
        (FLAT_RERANK, {"query": "a", "documents": []}, "documents"),
        (FLAT_RERANK, {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        (FLAT_RERANK, {"query": "a", "documents": ["b"], "instruct": "c"}, "instruct"),
    ):
        refused = server.post(path, wrong)
        assert refused.status_code == 400
        error = refused.json()
        assert error["error"]["param"] == param
        assert error["request_id"] == error["id"] == refused.headers["x-request-id"]
