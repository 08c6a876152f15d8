"""A pytest plugin that lets llama.cpp's own tests of its server ask this one."""

from __future__ import annotations

import os
import sys
import types
from typing import Any
from urllib.parse import urlsplit

import requests

URLS = {"embedder": os.environ["GTE_URL"], "reranker": os.environ["GTE_RERANKER_URL"]}


class Answer:
    def __init__(self, answer: requests.Response) -> None:
        self.headers = dict(answer.headers)
        self.status_code = answer.status_code
        self.body = answer.json() if "json" in answer.headers.get("content-type", "") else answer.text


class Server:
    """In the place of the process that the tests configure and start: ours runs already."""

    def __init__(self, kind: str) -> None:
        self.url = URLS[kind]
        self.server_host, self.server_port = urlsplit(self.url).hostname, urlsplit(self.url).port

    def start(self, **options: Any) -> None:
        pass

    def make_request(
        self, method: str, path: str, data: Any = None, headers: Any = None, **options: Any
    ) -> Answer:
        sent = {name: value for name, value in (headers or {}).items() if value is not None}
        return Answer(requests.request(method, self.url + path, json=data, headers=sent, timeout=60))


def preset(kind: str) -> Any:
    return staticmethod(lambda: Server(kind))


class ServerPreset:
    bert_bge_small = preset("embedder")
    bert_bge_small_with_fa = preset("embedder")
    tinyllama2 = preset("embedder")
    router = preset("embedder")
    jina_reranker_tiny = preset("reranker")


sys.modules["utils"] = types.ModuleType("utils")
vars(sys.modules["utils"]).update(ServerPreset=ServerPreset, ServerProcess=Server)
