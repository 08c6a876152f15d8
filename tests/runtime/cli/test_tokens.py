"""`gte tokens` as a user calls it."""

from __future__ import annotations

from command_line import gte, rows


def test_tokens(model: str):
    """The table lists tokens in order; JSONL is the authors' form."""
    table = gte("tokens", "--model", model, "北京").stdout.decode()
    assert "北" in table
    assert "<s>" in table
    (weights,) = rows(gte("tokens", "--model", model, "--format", "jsonl", "北京"))
    assert list(weights) == ["", "北", "京"]
