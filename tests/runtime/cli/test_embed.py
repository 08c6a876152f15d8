"""The command line as a user calls it: stdout is data, stderr is talk, exit codes are documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import gte, rows

from gte_runtime import Embedder


def test_embed_arguments(model: str, tiny_bundle: Path):
    """Texts as arguments give one JSON object each, float for float those of the library."""
    done = gte("embed", "--model", model, "--sparse", "--dim", "32", "北京", "capital")
    assert done.returncode == 0, done.stderr
    with Embedder.open(tiny_bundle) as engine:
        expected = engine.encode(["北京", "capital"], dim=32)
    for row, found in enumerate(rows(done)):
        assert np.array_equal(np.array(found["dense"], np.float32), expected.dense[row])
        assert found["sparse"]["indices"] == expected.sparse[row].indices.tolist()
        assert np.array_equal(np.array(found["sparse"]["values"], np.float32), expected.sparse[row].values)
        assert found["index"] == row
        assert found["truncated"] is False


def test_embed_with_a_prompt(model: str):
    """A name that the model does not have is a matter of usage."""
    done = gte("embed", "--prompt-name", "query", "--model", model, "a")
    assert done.returncode == 2
    assert b"has no prompt 'query'" in done.stderr


@pytest.mark.slow
def test_variants_of_the_shipped_model():
    """By name, each is built when it is first asked for."""
    done = gte("embed", "--variant", "cpu-int8", "x")
    assert (done.returncode, len(rows(done))) == (0, 1), done.stderr
    done = gte("embed", "--variant", "cpu-int3", "x")
    assert done.returncode == 2
    assert b"no graph for variant 'cpu-int3'; gte-mini has cpu-fp32" in done.stderr
