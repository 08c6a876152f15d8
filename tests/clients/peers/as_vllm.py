"""A pytest plugin that lets vLLM's own tests of its pooling routes ask this server.

Its tests import the server that they start, and classes of its answers. The classes are read from its source;
in the place of the server is ours; and what Hugging Face's models would give is asked of our own dialect.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import openai
import pydantic
import pytest

URL, RERANKER_URL = os.environ["GTE_URL"], os.environ["GTE_RERANKER_URL"]
"""Servers of one model each, as vLLM's are."""
SOURCES = Path(os.environ["GTE_PEER_SOURCES"])


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class RemoteOpenAIServer:
    def __init__(self, model: str, arguments: list[str], **options: Any) -> None:
        self.url = RERANKER_URL if "rerank" in model else URL

    def __enter__(self) -> RemoteOpenAIServer:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def url_for(self, *parts: str) -> str:
        return self.url + "/" + "/".join(parts)  # some tests begin their path with a slash

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


def module(name: str, **contents: Any) -> None:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        whole = ".".join(parts[:end])
        if whole not in sys.modules:
            sys.modules[whole] = types.ModuleType(whole)
            sys.modules[whole].__path__ = []
    vars(sys.modules[name]).update(contents)


def unit(rows: Any) -> np.ndarray:
    found = np.array(rows, np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def close(
    embeddings_0_lst: Any, embeddings_1_lst: Any, name_0: str = "", name_1: str = "", tol: float = 1e-3
) -> None:
    cosines = (unit(embeddings_0_lst) * unit(embeddings_1_lst)).sum(1)
    assert (cosines > 1 - tol).all(), f"{name_0} and {name_1}: cosines {cosines}"


def vectors(texts: list[str], dimensions: int | None = None) -> np.ndarray:
    data = ask(f"{URL}/v1/encode", {"input": texts, "dimensions": dimensions})["data"]
    return np.array([item["embedding"] for item in data])


class Pairs:
    """The scores of pairs that a model of Hugging Face would give."""

    def __init__(self, *arguments: Any, is_cross_encoder: bool = False, **options: Any) -> None:
        self.cross = is_cross_encoder

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def predict(self, pairs: list[list[str]]) -> np.ndarray:
        if self.cross:
            answers = [ask(f"{RERANKER_URL}/v2/rerank", {"query": q, "documents": [d]}) for q, d in pairs]
            return np.array([answer["results"][0]["relevance_score"] for answer in answers])
        return (vectors([q for q, _ in pairs]) * vectors([d for _, d in pairs])).sum(1)


class Usage(pydantic.BaseModel):
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0


known = {
    "OpenAIBaseModel": pydantic.BaseModel, "BaseModel": pydantic.BaseModel, "Field": pydantic.Field,
    "UsageInfo": Usage,
    "random_uuid": lambda: "id", "time": time, "ScoreContentPartParam": Any,
}  # fmt: skip
embed = "vllm.entrypoints.pooling.embed.protocol"
scoring = "vllm.entrypoints.pooling.scoring.protocol"
pooling = "vllm.entrypoints.pooling.pooling.protocol"


def classes(name: str, *names: str) -> None:
    """A module with these classes of vLLM's, without its imports."""
    tree = ast.parse((SOURCES / f"{name.replace('.', '/')}.py").read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    module(name, **known)
    exec(compile(tree, name, "exec"), vars(sys.modules[name]))


classes(embed, "EmbeddingResponseData", "EmbeddingResponse")
classes(
    scoring,
    "RerankDocument",
    "RerankResult",
    "RerankUsage",
    "RerankResponse",
    "ScoreResponseData",
    "ScoreResponse",
)
classes(pooling, "PoolingResponseData", "PoolingResponse")
module("tests.utils", RemoteOpenAIServer=RemoteOpenAIServer, ROCM_EXTRA_ARGS=[])
module("tests.conftest", HfRunner=Pairs)
module("tests.entrypoints.pooling.scoring.util", EncoderScoringHfRunner=Pairs)
module(
    "tests.models.language.pooling.embed_utils",
    float_embeddings=lambda answer: [item.embedding for item in answer.data],
    run_embedding_correctness_test=lambda model, texts, found, dimensions=None: close(
        vectors([text.strip() for text in texts], dimensions), found, "ours", "found"
    ),
)
module(
    "tests.models.utils",
    check_embeddings_close=close,
    EmbedModelInfo=lambda name, **facts: SimpleNamespace(name=name, **facts),
)
module("vllm.platforms", current_platform=SimpleNamespace(is_rocm=lambda: False))
module("vllm.renderers.chat_utils", ChatCompletionMessageParam=Any)
# What follows is used by tests that are expected to fail before they come to it.
absent = MagicMock()
module("vllm.tokenizers", get_tokenizer=absent)
module(
    "vllm.utils.serial_utils",
    EMBED_DTYPES=("float32", "float16", "bfloat16"),
    ENDIANNESS=("native", "big", "little"),
)
module(
    "vllm.entrypoints.pooling.utils",
    MetadataItem=absent,
    build_metadata_items=absent,
    decode_pooling_output=absent,
)


def binary2tensor(binary: bytes, shape: Any, embed_dtype: str, endianness: str) -> Any:
    import torch

    order = ">" if endianness == "big" else "<"
    if embed_dtype == "bfloat16":
        wide = np.frombuffer(binary, f"{order}u2").astype(np.uint32) << 16
        return torch.from_numpy(wide.view(np.float32).copy())
    kind = {"float32": "f4", "float16": "f2"}[embed_dtype]
    return torch.from_numpy(np.frombuffer(binary, order + kind).astype(np.float32))


module("vllm.utils.serial_utils", binary2tensor=binary2tensor)


@pytest.fixture(scope="session")
def hf_runner() -> Iterator[type[Pairs]]:
    with contextlib.nullcontext():
        yield Pairs
