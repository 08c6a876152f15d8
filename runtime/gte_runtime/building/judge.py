"""Compares what was built with the oracle's answers, on whatever machine the build runs."""

from __future__ import annotations

from pathlib import Path

from ..device.cpu import CpuSession
from ..format.manifest import Manifest
from ..inference.session import Session
from ..machine.files import read_regular
from ..machine.threads import thread_count
from ..proof.graph_in_numpy import NumpySession
from ..proof.selfcheck import self_check
from ..tokenization import Tokenizer


def prove(staged: Path, manifest: Manifest, name: str, tokenizer: Tokenizer) -> float:
    """Run all self-checks of a variant; the largest distance to the recorded vectors.

    Raises:
        SelfCheckFailed: it is above the variant's tolerance.
    """
    session = judge(staged, manifest, name)
    try:
        return self_check(manifest, name, tokenizer, session, thorough=True)
    finally:
        session.close()


def judge(directory: Path, manifest: Manifest, name: str) -> Session:
    """What runs a variant on this machine, whatever devices it has: ONNX Runtime's CPU provider, or numpy where that has no kernels."""
    variant = manifest.variants[name]
    graph = read_regular(directory / variant.graph)
    if variant.batch == "packed":
        return NumpySession(graph, directory)
    return CpuSession(graph, directory, variant, manifest.architecture.hidden_size, threads=thread_count())
