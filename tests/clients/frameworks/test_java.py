"""The client of Java's own library, which asks for HTTP/2 with its first request and takes HTTP/1.1 for an
answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

JAVA = shutil.which("java")


@pytest.mark.skipif(
    shutil.which("javac") is None, reason="no JDK here: apt-get install openjdk-17-jdk-headless"
)
def test_http_client(server: Any, texts: list[str]):
    source = Path(__file__).with_name("Embed.java")
    command = [str(JAVA), "-Dfile.encoding=UTF-8", str(source), f"{server.url}/v1/embeddings", server.key]
    done = subprocess.run(
        command, input=json.dumps({"input": texts}), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        status, version, body = line.split(" ", 2)
        assert (status, version) == ("200", "HTTP_1_1"), body
        vectors = [item["embedding"] for item in json.loads(body)["data"]]
        np.testing.assert_array_equal(np.array(vectors, np.float32), server.dense(texts))
