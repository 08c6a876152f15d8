"""Alibaba's dashscope package with nothing but its address changed: functions, clients, errors."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dashscope
import numpy as np
import pytest
from dashscope.v2 import errors

NAMES = ["text-embedding-v1", "text-embedding-v2", "text-embedding-v3", "text-embedding-v4"]


def dense(embeddings: list[dict[str, Any]]) -> np.ndarray:
    return np.array([item["embedding"] for item in embeddings], np.float32)


def test_one_variable_is_enough(server: Any, texts: list[str]):
    """An unchanged program, with DASHSCOPE_HTTP_BASE_URL set."""
    program = (
        "import dashscope, sys\n"
        "answer = dashscope.TextEmbedding.call(model='text-embedding-v3', input=sys.argv[1])\n"
        "print(answer.output['embeddings'][0]['embedding'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, texts[0]], env=dict(os.environ), capture_output=True, check=True
    )
    got = np.array(done.stdout.decode().strip("[]\n").split(", "), np.float32)
    np.testing.assert_array_equal(got, server.dense(texts[:1])[0])


@pytest.mark.parametrize("name", NAMES)
def test_dense(server: Any, texts: list[str], name: str):
    answer = dashscope.TextEmbedding.call(model=name, input=texts, text_type="document")
    assert (answer.status_code, answer.code, answer.message) == (200, "", "")
    np.testing.assert_array_equal(dense(answer.output["embeddings"]), server.dense(texts))
    assert [item["text_index"] for item in answer.output["embeddings"]] == list(range(len(texts)))
    assert answer.usage["total_tokens"] == sum(item["tokens"] for item in server.encode(texts))
    assert answer.request_id
    alone = dashscope.TextEmbedding.call(model=name, input=texts[0], dimension=64)
    np.testing.assert_array_equal(dense(alone.output["embeddings"]), server.dense(texts[:1], dimensions=64))


def test_dense_and_sparse(server: Any, texts: list[str]):
    """Sparse vectors are those of our own dialect, with a token's text beside its id."""
    want = server.encode(texts, sparse=True, sparse_format="both")
    for kind in ("sparse", "dense&sparse"):
        answer = dashscope.TextEmbedding.call(model="text-embedding-v3", input=texts, output_type=kind)
        for item, own in zip(answer.output["embeddings"], want, strict=True):
            sparse = item["sparse_embedding"]
            assert [one["index"] for one in sparse] == own["sparse"]["indices"]
            assert [one["value"] for one in sparse] == own["sparse"]["values"]
            assert [one["token"] for one in sparse] == own["sparse"]["tokens"]
            assert ("embedding" in item) == (kind == "dense&sparse")


@pytest.mark.parametrize("count", [10, 11, 300])
def test_batches_of_10_and_beyond(server: Any, count: int):
    """The cloud refuses more than 10 texts, the package does not; here a request takes 2048."""
    texts = [f"text {i}" for i in range(count)]
    answer = dashscope.TextEmbedding.call(model="text-embedding-v3", input=texts)
    np.testing.assert_array_equal(dense(answer.output["embeddings"]), server.dense(texts))
    refused = dashscope.TextEmbedding.call(model="text-embedding-v3", input=["x"] * 2049)
    assert (refused.status_code, refused.code) == (400, "InvalidParameter")
    assert "input.texts has 2049 texts, the limit is 2048" in refused.message


def test_a_file_that_the_package_reads(server: Any, tmp_path: Path):
    """One text a line; the package sends them as texts."""
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    with (tmp_path / "lines").open() as lines:
        answer = dashscope.TextEmbedding.call(model="text-embedding-v3", input=lines)
    assert len(answer.output["embeddings"]) == 3


def ranks(results: Any) -> tuple[list[int], list[float]]:
    return [item.index for item in results], [item.relevance_score for item in results]


@pytest.mark.parametrize("name", ["gte-rerank", "gte-rerank-v2"])
def test_rerank(server: Any, texts: list[str], name: str):
    """Sync and async, with and without the documents."""
    asked = {"model": name, "query": texts[0], "documents": texts[1:]}
    answer = dashscope.TextReRank.call(**asked, top_n=2, return_documents=True)
    assert ranks(answer.output.results) == server.ranked(texts[0], texts[1:], 2)
    assert [item["document"]["text"] for item in answer.output.results] == [
        texts[1 + item.index] for item in answer.output.results
    ]
    assert answer.usage.total_tokens > 0
    answer = asyncio.run(dashscope.AioTextReRank.call(**asked))
    assert ranks(answer.output.results) == server.ranked(texts[0], texts[1:])
    assert answer.output.results[0]["document"] is None


def test_clients_of_2_0(server: Any, texts: list[str]):
    """`dashscope.Client` and `AsyncClient`, which take their address from the same variable."""
    want = server.dense(texts)

    async def at_once() -> Any:
        async with dashscope.AsyncClient() as client:
            asked = [client.embeddings.create(model="text-embedding-v4", input=text) for text in texts]
            ranked = await client.rerank.create(model="gte-rerank-v2", query=texts[0], documents=texts[1:])
            return await asyncio.gather(*asked), ranked

    client = dashscope.Client()
    answer = client.embeddings.create(model="text-embedding-v4", input=texts, output_type="dense&sparse")
    np.testing.assert_array_equal(np.array([e.embedding for e in answer.embeddings], np.float32), want)
    assert [e.index for e in answer.embeddings] == list(range(len(texts)))
    assert all(e.sparse_embedding for e in answer.embeddings)
    assert answer.usage.total_tokens > 0
    singly, ranked = asyncio.run(at_once())
    rows = [each.embeddings[0].embedding for each in singly]
    np.testing.assert_array_equal(np.array(rows, np.float32), want)
    assert ranks(ranked.results) == server.ranked(texts[0], texts[1:])


def test_errors(server: Any):
    """The package shows code, message and request id, and raises by the code in 2.0."""
    answer = dashscope.TextEmbedding.call(model="text-embedding-v3", input=["fine", ""])
    assert (answer.status_code, answer.code) == (400, "InvalidParameter")
    assert answer.message.startswith("input.texts[1] is an empty string")
    assert answer.request_id
    wrong = dashscope.TextReRank.call(model="gte-rerank", query="a", documents=["b"], api_key="wrong")
    assert (wrong.status_code, wrong.code) == (401, "InvalidApiKey")
    client = dashscope.Client(max_retries=0)
    with pytest.raises(errors.BadRequestError, match=r"input\.texts\[1\] is an empty string"):
        client.embeddings.create(model="text-embedding-v4", input=["fine", ""])
    with pytest.raises(errors.BadRequestError, match=r"parameters\.instruct: the model takes no instruction"):
        client.embeddings.create(model="text-embedding-v4", input="fine", instruct="Find it")
    with pytest.raises(errors.AuthenticationError, match="Bearer KEY"):
        dashscope.Client(api_key="wrong").embeddings.create(model="text-embedding-v4", input="fine")


def test_what_is_not_served_is_named(server: Any):
    """Files of texts and their tasks, images, other models: refused in words that the package shows."""
    batch = dashscope.BatchTextEmbedding.async_call(model="text-embedding-async-v2", url="https://a/b.txt")
    assert (batch.status_code, batch.code) == (400, "InvalidParameter")
    assert batch.message.startswith("input.url: files of texts are not fetched here")
    task = dashscope.BatchTextEmbedding.fetch("7")
    assert (task.status_code, task.message) == (
        404,
        "there are no tasks here: answers of text-embedding and text-rerank come at once",
    )
    image = dashscope.MultiModalEmbedding.call(model="multimodal-embedding-v1", input=[{"text": "a"}])
    assert (image.status_code, image.message.split(";")[0]) == (
        404,
        "images, sound and video are not embedded here",
    )
    with pytest.raises(errors.BadRequestError, match=r"input\.url"):
        dashscope.Client().embeddings.jobs.create(model="text-embedding-async-v2", file_url="https://a/b.txt")
