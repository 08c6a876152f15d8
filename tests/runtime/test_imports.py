"""The runtime is torch-free: what an import loads is looked at in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "optimum",
    "starlette",
    "fastapi",
    "pyarrow",
    "scipy",
    "tqdm",
    "click",
    "huggingface_hub",
}


def loaded(code: str) -> set[str]:
    """Top-level modules that are there after the code ran."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    """`import gte_runtime` needs numpy; onnxruntime and tokenizers wait until a model is opened."""
    modules = loaded("import gte_runtime")
    assert "numpy" in modules
    assert not modules & (HEAVY | {"onnxruntime", "tokenizers"})


@pytest.mark.slow
def test_embedding_loads_no_torch():
    """Opening the default model and embedding a text, from a checkpoint to vectors, loads none of them
    either.
    """
    modules = loaded(
        "from gte_runtime import Embedder\nwith Embedder.open('gte-mini') as gte:\n    gte.encode('text')"
    )
    assert not modules & (HEAVY - {"huggingface_hub"})
    assert {"onnxruntime", "tokenizers"} <= modules


@pytest.mark.slow
def test_other_modules_are_light():
    """Modules beside the API load no more, all together."""
    modules = (
        "compat",
        "building.build",
        "catalog.locate",
        "opening",
        "verify",
        "cli",
        "cli.bench",
        "cli.serve",
        "bench.latency",
    )
    code = "\n".join(f"import gte_runtime.{module}" for module in modules)
    assert not loaded(code) & (HEAVY - {"click"})
