"""Compares a variant with the oracle's outputs. No variant needs a GPU for that."""

from __future__ import annotations

from pathlib import Path

from ..device.cpu import CpuSession
from ..format.manifest import Manifest
from ..inference.expansion import with_expansion
from ..inference.pooling import with_pooling
from ..inference.session import Session
from ..machine.files import read_regular
from ..machine.threads import thread_count
from ..proof.graph_in_numpy import NumpySession
from ..proof.selfcheck import self_check
from ..tokenization import Tokenizer


def prove(staged: Path, manifest: Manifest, name: str, tokenizer: Tokenizer) -> float:
    """Run all self-checks of a variant and return the largest distance to the recorded vectors.

    Raises:
        SelfCheckFailed: the distance is above the variant's tolerance.
    """
    session = judge(staged, manifest, name)
    try:
        return self_check(manifest, name, tokenizer, session, thorough=True)
    finally:
        session.close()


def judge(directory: Path, manifest: Manifest, name: str) -> Session:
    """A session for a variant: ONNX Runtime on the CPU, or numpy for graphs without CPU kernels."""
    variant = manifest.variants[name]
    graph = read_regular(directory / variant.graph)
    encoder: Session = (
        NumpySession(graph, directory)
        if variant.batch == "packed"
        else CpuSession(graph, directory, variant, manifest.architecture.hidden_size, threads=thread_count())
    )

    def read(name: str) -> bytes:
        return read_regular(directory / name)

    return with_expansion(with_pooling(encoder, manifest, read), manifest, read)
