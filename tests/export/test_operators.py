"""The bodies of our PyTorch operators are what ONNX Runtime's kernels compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Golden

from gte_export.operators import multi_head_attention, rotary_embedding
from gte_runtime.checkpoint.rope import Rope
from gte_runtime.proof.oracle import _rotate, _softmax


@pytest.mark.parametrize("head_size", [16, 24, 32, 48, 64])
def test_rotary_embedding(head_size: int):
    """Dimension i pairs with i + d/2, for every head by itself."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 7, 2 * head_size)).astype(np.float32)
    cos, sin = Rope(head_size=head_size, theta=1000.0).tables(7)
    places = torch.arange(7)[None]
    found = rotary_embedding(torch.from_numpy(x), places, torch.from_numpy(cos), torch.from_numpy(sin), 2)
    heads = x.reshape(7, 2, head_size).transpose(1, 0, 2)
    expected = _rotate(heads, cos, sin).transpose(1, 0, 2).reshape(1, 7, -1)
    assert np.allclose(found.numpy(), expected, atol=1e-6)


def test_masked_attention():
    """Keys at and beyond the length have no weight; without lengths all have."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 5, 8)).astype(np.float32) for _ in range(3))
    query, key, value = (torch.from_numpy(t) for t in (q, k, v))
    found = multi_head_attention(query, key, value, torch.tensor([5, 3], dtype=torch.int32), 1).numpy()
    for row, length in enumerate((5, 3)):
        scores = q[row] @ k[row, :length].T / np.sqrt(8)
        assert np.allclose(found[row], _softmax(scores) @ v[row, :length], atol=1e-5)
    unmasked = multi_head_attention(query, key, value, None, 1).numpy()
    assert np.allclose(unmasked[0], found[0], atol=1e-6)
    assert not np.allclose(unmasked[1], found[1], atol=1e-3)


def test_cli_traces_and_compares(golden: Golden, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """`gte-export trace CHECKPOINT` writes graphs and compares every variant with PyTorch on the checkpoint's
    weights.
    """
    from click.testing import CliRunner

    from gte_export.cli import gte_export

    result = CliRunner().invoke(gte_export, ["trace", str(golden.checkpoint), "-o", str(tmp_path / "tiny")])
    assert result.exit_code == 0, result.output
    for variant in ("cpu-fp32", "portable-fp32", "portable-fp16"):
        assert f"{variant}: largest difference to PyTorch" in result.output
    assert (tmp_path / "tiny" / "recipe.toml").exists()
