"""The tiny random reranker and its graphs; see its README."""

from __future__ import annotations

from pathlib import Path

RERANKER = Path(__file__).parent / "data" / "gte-tiny-reranker"
GRAPHS = RERANKER / "graphs"
VARIANTS = ("cpu-fp32", "portable-fp32", "cpu-int8", "portable-fp16")
