"""From a bundle on disk to a session and a tokenizer that are proven to be its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from ..device.cpu import CpuSession
from ..device.runtime import runtime
from ..errors import ConfigError, GteError
from ..format.graph import check_operators, check_pointers, inspect_graph
from ..inference.session import Session
from ..machine import processor
from ..machine.cache import recall, remember
from ..machine.memory import give_back
from ..proof.invariance import Invariance, measure
from ..proof.selfcheck import self_check
from ..tokenization import Tokenizer
from .directory import Bundle, Verify

if TYPE_CHECKING:
    from ..device.cuda import CudaOptions
    from ..device.tensorrt import EngineSource

MEASURED = "measured"
"""Kind of the notes about batch invariance: {what was measured with: difference}."""


class Loaded(NamedTuple):
    session: Session
    tokenizer: Tokenizer
    invariance: Invariance
    """Not measured on GPUs, whose variants promise nothing."""
    cuda_graphs: dict[str, Any] | None
    """Which CUDA graphs were captured, and how long that took; None where none were asked for."""


def load(
    bundle: Bundle,
    name: str,
    *,
    provider: str,
    threads: int,
    encode_special_tokens: bool,
    verify: Verify,
    gpu: CudaOptions | None = None,
) -> Loaded:
    """Check a variant's files, load them, and compare what runs with what the manifest recorded.

    Files that are new to this machine are hashed, the graph is looked into, and all self-check texts are
    run. Only when everything has passed are the files remembered; later starts run the short texts.

    Raises:
        BundleError: a file is not what the manifest promises, or asks for what it should not.
        SelfCheckFailed: it runs and gives other vectors.
        ProviderError: the provider is not there.
    """
    manifest, variant = bundle.manifest, bundle.variant(name)
    checked = bundle.check(manifest.files_of(name), verify)
    graph = bundle.read(variant.graph)
    facts = inspect_graph(graph, variant.graph) if checked.fresh else None
    if facts is not None:
        check_pointers(facts, variant.graph, variant.weights, manifest.files)
    # Side by side: the two take about as long as each other, and ONNX Runtime leaves the interpreter free.
    with ThreadPoolExecutor(1, thread_name_prefix="gte-load") as loading:
        opened = loading.submit(_open, bundle, name, graph, provider, threads, gpu)
        try:
            tokenizer = Tokenizer(
                bundle.read("tokenizer.json"), manifest.tokenizer, encode_special_tokens=encode_special_tokens
            )
        except GteError:
            opened.result().close()  # or its own error, which is the first to tell
            raise
    session = opened.result()
    try:
        if facts is not None:
            check_operators(facts, variant.graph)
            tokenizer.check_ids(manifest.architecture.vocab_size)
        bundle.unchanged(checked)
        self_check(manifest, name, tokenizer, session, thorough=checked.fresh)
        invariance = _invariance(bundle, name, session, provider, threads)
    except BaseException:
        session.close()
        raise
    bundle.remember(checked)
    give_back()  # what loading took: a sixth of what a full-size int8 engine held
    return Loaded(session, tokenizer, invariance, _captured(session))


def _captured(session: Session) -> dict[str, Any] | None:
    if session.provider != "cuda":
        return None
    from ..device.cuda import CudaSession

    return session.report() if isinstance(session, CudaSession) and session.captures else None


def known_invariance(bundle: Bundle, name: str, threads: int) -> Invariance | None:
    """What an earlier load on this machine found on its processor; None when there was none."""
    found = recall(MEASURED, bundle.digest).get(_measured_with(name, threads))
    return Invariance(_promised(bundle, name), found) if isinstance(found, float) else None


def _invariance(bundle: Bundle, name: str, session: Session, provider: str, threads: int) -> Invariance:
    """Measured when a bundle, a processor, a number of threads or an ONNX Runtime is new, and remembered."""
    if provider != "cpu":
        return Invariance(_promised(bundle, name), None)
    if known := known_invariance(bundle, name, threads):
        return known
    manifest = bundle.manifest
    checks = manifest.pair_checks if manifest.reranker else manifest.self_checks
    found = measure(session, bundle.variant(name), [token for check in checks for token in check.ids])
    remember(
        MEASURED, bundle.digest, recall(MEASURED, bundle.digest) | {_measured_with(name, threads): found}
    )
    return Invariance(_promised(bundle, name), found)


def _promised(bundle: Bundle, name: str) -> bool:
    return bundle.variant(name).batch == "ragged"


def _measured_with(name: str, threads: int) -> str:
    """All that decides which kernels run."""
    return ", ".join(
        (
            name,
            f"{threads} threads",
            f"onnxruntime {runtime().__version__}",
            processor.model(),
            *processor.features(),
        )
    )


def _open(
    bundle: Bundle, name: str, graph: bytes, provider: str, threads: int, gpu: CudaOptions | None
) -> Session:
    """The session of a provider. What GPUs need is not even imported for a CPU."""
    variant, width = bundle.variant(name), bundle.manifest.architecture.hidden_size
    if provider == "cpu":
        if variant.batch == "packed":
            raise ConfigError(
                f"{variant.graph} runs on NVIDIA GPUs only; pass provider='cuda', or name another variant"
            )
        return CpuSession(graph, bundle.directory, variant, width, threads=threads)
    from ..device.cuda import CudaOptions, CudaSession

    options = gpu or CudaOptions()
    if provider == "tensorrt":
        from ..device.tensorrt import TensorRtSession

        return TensorRtSession(engine_source(bundle, name), options)
    return CudaSession(graph, bundle.directory, variant, width, options)


def engine_source(bundle: Bundle, name: str) -> EngineSource:
    """What a TensorRT engine of a variant is built from. Raises BundleError when there is no such variant, or its graph changed."""
    from ..device.tensorrt import EngineSource

    variant = bundle.variant(name)
    return EngineSource(
        model=bundle.manifest.model,
        digest=bundle.digest,
        directory=bundle.directory,
        graph=bundle.read(variant.graph),
        variant=variant,
        width=bundle.manifest.architecture.hidden_size,
    )
