"""Loads a variant of a bundle: checks its files, opens a session, compares outputs with the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arrays import all_finite
from ..device.cpu import CpuSession
from ..device.runtime import knows_operator, runtime
from ..errors import BundleError, BundleVersionError, ConfigError, GteError
from ..format.graph import OPERATORS, GraphFacts, check_operators, check_pointers, inspect_graph
from ..inference.expansion import with_expansion
from ..inference.pooling import with_pooling
from ..inference.session import Session
from ..machine import processor
from ..machine.cache import recall, remember
from ..machine.memory import give_back
from ..machine.tasks import Task, aside
from ..proof.invariance import Invariance, measure
from ..proof.selfcheck import self_check
from ..tokenization import EXACT, Form, Tokenizer
from .directory import Bundle, OpenFiles, Verify

if TYPE_CHECKING:
    from ..device.cuda import CudaOptions
    from ..device.tensorrt import EngineSource

FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
"""The floating-point types of weights, by their numbers in onnx.proto."""

MEASURED = "measured"
"""The kind of cache note about batch invariance: {conditions of the measurement: largest difference}."""


class Loaded(NamedTuple):
    """A variant that is ready to run."""

    session: Session
    tokenizer: Tokenizer
    invariance: Invariance
    """Measured on CPUs only: no variant for GPUs promises it."""
    cuda_graphs: dict[str, Any] | None
    """Which CUDA graphs were captured, and how long that took; None where CUDA graphs are not used."""


def load(
    bundle: Bundle,
    name: str,
    *,
    provider: str,
    threads: int,
    encode_special_tokens: bool,
    verify: Verify,
    unicode: Form = EXACT,
    gpu: CudaOptions | None = None,
) -> Loaded:
    """Check a variant's files, load them, and compare the outputs with those that the manifest records.

    Where a file is new to this machine, it is hashed, the graph's operators and pointers are checked, and all
    self-check texts are run. Only after everything has passed is that noted in the cache; later starts run
    the short self-check texts only.

    Args:
        bundle: the opened bundle.
        name: the variant.
        provider: "cpu", "cuda" or "tensorrt".
        threads: threads of a session on the CPU.
        encode_special_tokens, unicode: see `Tokenizer`.
        verify: see `Bundle.check`.
        gpu: options of a session on a GPU.

    Raises:
        BundleError: a file is not what the manifest records, or the graph has an operator or a pointer that
            is not allowed.
        SelfCheckFailed: the outputs differ from those recorded.
        ConfigError: the provider cannot run the variant.
        ProviderError: the provider is not available or failed.
    """
    bundle.variant(name)
    facts: list[GraphFacts] = []
    checked = bundle.check(
        bundle.manifest.files_of(name), verify, before=lambda: facts.append(inspect_variant(bundle, name))
    )
    try:
        return _load(bundle, checked, facts, name, provider, threads, encode_special_tokens, unicode, gpu)
    except BaseException:
        checked.close()
        raise


def _load(
    bundle: Bundle,
    checked: OpenFiles,
    facts: Sequence[GraphFacts],
    name: str,
    provider: str,
    threads: int,
    encode_special_tokens: bool,
    unicode: Form,
    gpu: CudaOptions | None,
) -> Loaded:
    manifest, variant = bundle.manifest, bundle.variant(name)
    graph = bundle.read(variant.graph)
    # In parallel: session and tokenizer take about the same time, and ONNX Runtime releases the GIL.
    data = bundle.read("tokenizer.json")
    make_tokenizer = partial(
        Tokenizer,
        data,
        manifest.tokenizer,
        encode_special_tokens=encode_special_tokens,
        unicode=unicode,
    )
    loading = Task(partial(_open, bundle, checked, name, graph, provider, threads, gpu), "gte-load")
    try:
        loading.start()
        # Aside, too, since both import. A signal while the main thread waits for Python's import lock leaves
        # that locked for ever, and the other thread would never end (seen in 3.11).
        tokenizer = aside(make_tokenizer, "gte-load")
        encoder = loading.result()
    except BaseException as error:
        loading.end()  # a session that loads cannot be stopped
        if isinstance(error, GteError) and loading.failure is not None:
            raise loading.failure from None
        if loading.value is not None:
            loading.value.close()
        raise
    try:
        session = with_expansion(with_pooling(encoder, manifest, bundle.read), manifest, bundle.read)
        if checked.fresh:
            tokenizer.check_ids(manifest.architecture.vocab_size)
        checked.check_names()
        self_check(manifest, name, tokenizer, session, thorough=checked.fresh)
        check_finite(bundle, facts)
        invariance = _invariance(bundle, name, session, provider, threads)
    except BaseException:
        encoder.close()
        raise
    bundle.remember(checked)
    checked.keep(variant.weights)
    give_back()  # the memory that loading needed: a sixth of what a process with full-size int8 weights held
    return Loaded(session, tokenizer, invariance, _captured(encoder))


def inspect_variant(bundle: Bundle, name: str) -> GraphFacts:
    """Read the graph of a variant and check what it would run and read, without running it.

    Raises:
        BundleCorruptError: the graph is not the one that the manifest records.
        BundleVersionError: it has an operator that the installed ONNX Runtime does not know.
        BundleError: it is no graph, or has an operator, a pointer or a weight file of a size that is not
            allowed.
    """
    manifest, variant = bundle.manifest, bundle.variant(name)
    facts = inspect_graph(bundle.read(variant.graph), variant.graph)
    if unknown := [kind for kind in facts.operators if kind not in OPERATORS and not knows_operator(kind)]:
        raise BundleVersionError(
            f"{variant.graph} needs a newer ONNX Runtime than {runtime().__version__}, although its "
            f"manifest promises that ORT >= {variant.min_onnxruntime} will do: it has no operator "
            f"{unknown[0][:80]}"
        )
    check_operators(facts, variant.graph)
    check_pointers(facts, variant.graph, variant.weights, manifest.files)
    return facts


def check_finite(bundle: Bundle, graphs: Iterable[GraphFacts]) -> None:
    """Check that no weight of these graphs is NaN or infinite. The self-check reads only the rows of the
    embedding table that its texts need, and int8 arithmetic can turn NaN into a finite number.

    Raises:
        BundleError: naming the tensor.
    """
    for pointer in dict.fromkeys(pointer for facts in graphs for pointer in facts.pointers):
        if (kind := FLOATS.get(pointer.element)) is None:
            continue
        for piece in bundle.pieces(pointer.file, pointer.offset, pointer.length):
            if not all_finite(np.frombuffer(piece[: len(piece) // kind.itemsize * kind.itemsize], kind)):
                raise BundleError(
                    f"{pointer.file}: tensor {pointer.name[:80]} holds NaN or infinity; "
                    "build the bundle again from an undamaged checkpoint"
                )


def _captured(session: Session) -> dict[str, Any] | None:
    """The report of a session that captures CUDA graphs; None of any other."""
    if session.provider != "cuda":
        return None
    from ..device.cuda import CudaSession

    return session.report() if isinstance(session, CudaSession) and session.captures else None


def known_invariance(bundle: Bundle, name: str, threads: int) -> Invariance | None:
    """The result of an earlier measurement under the same conditions on this machine; None without one."""
    found = recall(MEASURED, bundle.digest).get(_measured_with(name, threads))
    return Invariance(_promised(bundle, name), found) if isinstance(found, float) else None


def _invariance(bundle: Bundle, name: str, session: Session, provider: str, threads: int) -> Invariance:
    """Measure batch invariance on a CPU, or return the result from the cache."""
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
    """The conditions of a measurement: everything that decides which kernels run."""
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
    bundle: Bundle,
    files: OpenFiles,
    name: str,
    graph: bytes,
    provider: str,
    threads: int,
    gpu: CudaOptions | None,
) -> Session:
    """Open a session of a provider. Modules for GPUs are imported only for those, to keep start-up light."""
    variant, width = bundle.variant(name), bundle.manifest.architecture.hidden_size
    if provider == "cpu":
        if variant.batch == "packed":
            raise ConfigError(
                f"{variant.graph} runs on NVIDIA GPUs only; pass provider='cuda', or name another variant"
            )
        return CpuSession(graph, files.directory, variant, width, threads=threads, files=files)
    from ..device.cuda import CudaOptions, CudaSession

    options = gpu or CudaOptions()
    if provider == "tensorrt":
        from ..device.tensorrt import TensorRtSession

        return TensorRtSession(engine_source(bundle, name), options)
    return CudaSession(graph, files.directory, variant, width, options)


def engine_source(bundle: Bundle, name: str) -> EngineSource:
    """What a TensorRT engine of a variant is built from.

    Raises:
        BundleError: there is no such variant, or its graph is not what the manifest records.
    """
    from ..device.tensorrt import EngineSource

    variant = bundle.variant(name)
    inspect_variant(bundle, name)
    return EngineSource(
        model=bundle.manifest.model,
        digest=bundle.digest,
        directory=bundle.directory,
        graph=bundle.read(variant.graph),
        variant=variant,
        width=bundle.manifest.architecture.hidden_size,
    )
