"""Clients of Node.js: openai, cohere-ai and @huggingface/inference, each in one script that prints what it
got."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node here: apt-get install nodejs npm")


@pytest.fixture(scope="module")
def got(server: Any, texts: list[str]) -> dict[str, Any]:
    given = json.dumps({"url": server.url, "key": server.key, "texts": texts})
    script = Path(__file__).with_name("node.cjs")
    env = {**os.environ, "NODE_PATH": os.environ["GTE_NODE_MODULES"]}
    done = subprocess.run(
        [str(NODE), str(script)], input=given, capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_openai(got: dict[str, Any], server: Any, texts: list[str]):
    np.testing.assert_array_equal(np.array(got["openai"]["vectors"], np.float32), server.dense(texts))
    np.testing.assert_array_equal(
        np.array(got["openai"]["short"], np.float32), server.dense(texts, dimensions=64)
    )
    assert got["openai"]["models"] == ["gte-mini", "gte-tiny-reranker"]
    assert got["openai"]["error"] == [400, "empty_input", "input[0]"]


def test_cohere(got: dict[str, Any], server: Any, texts: list[str]):
    np.testing.assert_array_equal(np.array(got["cohere"]["vectors"], np.float32), server.dense(texts))
    assert tuple(got["cohere"]["ranked"]) == server.ranked(texts[0], texts[1:], 2)


def test_hub(got: dict[str, Any], server: Any, texts: list[str]):
    np.testing.assert_array_equal(np.array(got["hub"]["vectors"], np.float32), server.dense(texts))
