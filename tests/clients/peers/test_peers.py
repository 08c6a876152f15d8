"""The tests that vLLM and llama.cpp have for their own servers, run against this one.

What fails has to be in EXPECTED with its reason, and what is there has to fail.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
VERSIONS = {"vllm": "0.33.0", "llama-cpp-python": "0.3.36"}
PARTS = {
    "vllm": (
        "tests/entrypoints/pooling/",
        "vllm/entrypoints/pooling/",
        "vllm/entrypoints/serve/engine/protocol.py",
    ),
    "llama-cpp-python": ("vendor/llama.cpp/tools/server/tests/",),
}
BACKENDS = {"setuptools": "build_meta.py", "scikit_build_core": "build.py"}

EXPECTED = {
    "vllm": {
        "*truncate_none_rejects_long_input*": "our models read 8192 tokens, and the text has fewer",
        "*truncate_start_vs_end_differ*": "the same",
        "*api_max_model_len*": "the same; and what is too long is cut, unless truncate is false",
        "*test_basic*": "the name and the token ids are those of another model",
        "*test_completion_request*": "vectors of 384 values, and ids of another vocabulary",
        "*test_truncate_prompt_tokens*": "vectors of 384 values",
        "*test_matryoshka*": "dimensions of other models",
        "*test_padding*": "refused: nothing is padded",
        "*chat_request*": "refused: no chat template",
        "*bytes*embed_dtype_and_endianness*": "refused: float and base64 are what there is",
        "*test_params_not_supported*": "pydantic's word for it; our message has the values",
        "*test_pooling_*": "/pooling is not here",
        "*bi_encoder_online*test_rerank*": "an embedder does not rerank here; /score gives its cosines",
        "*bi_encoder_online*test_invocations*": "the same",
        "*cross_encoder_online*test_rerank_api_t*": "the reranker of these tests is not trained",
    },
    "llama-cpp-python": {
        "*mixed_input*-False*": "refused: an empty text, without --allow-empty, and a text mixed with ids",
        "*mixed_input*input7*": "a text mixed with ids",
        "*pooling_none*": "a server that pools nothing; /embed_all gives the vectors of tokens",
        "*prompt_too_long*": "our models read 8192 tokens, and what is longer is cut",
        "*usage*": "counted with another tokenizer",
        "*with_bos*": "the id of another vocabulary",
        "*test_rerank": "the reranker of these tests is not trained",
        "*test_rerank_tei_format": "the same",
    },
}
VLLM, LLAMA = "tests/entrypoints/pooling", "vendor/llama.cpp/tools/server/tests/unit"
FILES = {
    "vllm": [
        f"{VLLM}/embed/test_cohere_online.py",
        f"{VLLM}/embed/test_cohere_openai_parity.py",
        f"{VLLM}/embed/test_online.py",
        f"{VLLM}/embed/test_online_dimensions.py",
        f"{VLLM}/scoring/test_bi_encoder_online.py",
        f"{VLLM}/scoring/test_cross_encoder_online.py",
    ],
    "llama-cpp-python": [f"{LLAMA}/test_{name}.py" for name in ("embedding", "rerank", "tokenize")],
}
PLUGINS = {"vllm": "as_vllm", "llama-cpp-python": "as_llama_cpp"}
LEAST = {"vllm": 45, "llama-cpp-python": 35}
"""Tests that have to pass: a harness in which none is run must not pass for one in which none fails."""


def sources(name: str) -> Path:
    """The unpacked source distribution: of its files those in PARTS."""
    kept = Path(os.environ.get("GTE_PEERS", tempfile.gettempdir())) / f"{name}-{VERSIONS[name]}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
            archive = _download(name, Path(temporary))
            with tarfile.open(archive) as tar:
                for member in tar:
                    inside = member.name.partition("/")[2]
                    if member.isfile() and inside.startswith(PARTS[name]):
                        member.name = inside
                        tar.extract(member, Path(temporary) / "kept", filter="data")
            (Path(temporary) / "kept").rename(kept)
    return kept


def _download(name: str, target: Path) -> Path:
    for package, module in BACKENDS.items():
        (target / "backends" / package).mkdir(parents=True)
        (target / "backends" / package / "__init__.py").touch()
        (target / "backends" / package / module).write_text("from sdist_metadata import *\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += [
        "--no-binary",
        ":all:",
        "--no-build-isolation",
        "--dest",
        str(target),
        f"{name}=={VERSIONS[name]}",
    ]
    path = os.pathsep.join([str(target / "backends"), str(HERE)])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    (archive,) = target.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def urls(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers of one model each, as those of vLLM and llama.cpp are."""
    folders = [tmp_path_factory.mktemp(name) for name in ("embedder", "reranker")]
    ids = ["--accept-token-ids"]
    with (
        serving(folders[0], "", ["gte-mini"], ids) as embedder,
        serving(folders[1], "", ["gte-tiny-reranker"], ids) as reranker,
    ):
        yield {"GTE_URL": embedder.url, "GTE_RERANKER_URL": reranker.url}


@pytest.mark.parametrize("peer", list(EXPECTED))
def test_tests_of_other_servers(peer: str, urls: dict[str, str], tmp_path: Path):
    root, report = sources(peer), tmp_path / "report.xml"
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        PLUGINS[peer],
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
    ]
    command += ["-c", str(tmp_path / "pytest.ini"), "--rootdir", str(root), "--noconftest", "--tb=line"]
    command += ["--import-mode=importlib", f"--junit-xml={report}", *FILES[peer]]
    env = {**os.environ, **urls, "GTE_PEER_SOURCES": str(root), "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=280)
    cases = list(ET.parse(report).iter("testcase"))
    names = {f"{case.get('classname')}::{case.get('name')}": case for case in cases}
    failed = {
        n for n, case in names.items() if case.find("failure") is not None or case.find("error") is not None
    }
    matched = {name: [p for p in EXPECTED[peer] if fnmatch.fnmatchcase(name, p)] for name in failed}
    assert [name for name, patterns in matched.items() if not patterns] == [], done.stdout[-6000:]
    unused = EXPECTED[peer].keys() - {pattern for patterns in matched.values() for pattern in patterns}
    assert unused == set(), "these pass now; take them out"
    assert len(names) - len(failed) >= LEAST[peer]
