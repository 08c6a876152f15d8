"""`gte score` as a user calls it."""

from __future__ import annotations

from command_line import gte, rows


def test_score(model: str):
    """Documents come best first, with the score of the library."""
    done = gte("score", "--model", model, "--format", "jsonl", "北京", "capital of China", "北京")
    scores = rows(done)
    assert scores[0]["document"] == "北京"
    assert scores[0]["score"] >= scores[1]["score"]
