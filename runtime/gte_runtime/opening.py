"""Opens a model by its name or directory and checks it: the common part of `Embedder.open` and
`Reranker.open`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .bundle.directory import Bundle, Verify
from .bundle.load import load
from .catalog.locate import locate
from .device.runtime import PROVIDERS
from .errors import ConfigError
from .format.manifest import Manifest
from .inference.cost import COSTS, Cost
from .inference.engine import Engine
from .inference.plan import Budget
from .machine.threads import named_limits, thread_count
from .tokenization import EXACT, Form, Tokenizer, choose_form

if TYPE_CHECKING:
    from .device.cuda import CudaOptions

VARIANTS = {
    "cpu": ("cpu-fp32", "cpu-int8", "portable-fp32"),
    "cuda": ("cuda-fp16", "portable-fp16", "portable-fp32"),
    "tensorrt": ("portable-fp16",),
}
"""{provider: variants in order of preference}. For TensorRT only fp16: it would round float32 products to 10
bits."""


class Opened(NamedTuple):
    """The parts of an `Embedder` or `Reranker`."""

    manifest: Manifest
    tokenizer: Tokenizer
    engine: Engine
    info: dict[str, Any]
    """Model, bundle, variant, provider, threads, batch invariance, devices. For people and logs; nothing
    depends on it."""
    reopening: dict[str, Any]
    """Arguments that open it again, also in another process."""


def open_model(
    model: str | Path,
    *,
    reranker: bool,
    provider: str = "cpu",
    variant: str | None = None,
    threads: int | None = None,
    budget: Budget | None = None,
    encode_special_tokens: bool = False,
    unicode: Form | None = None,
    verify: Verify = "auto",
    latency: bool = False,
    devices: Sequence[int] = (0,),
    gpu_mem_limit: int | None = None,
) -> Opened:
    """Open a bundle and check that it gives the results that are recorded in it. Arguments and errors are
    those of `Embedder.open`.

    Args:
        reranker: whether the bundle must be a reranker's, or an embedding model's.

    Raises:
        ConfigError: also for a bundle of the other kind.
    """
    if provider not in PROVIDERS:
        raise ConfigError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
    if verify not in ("auto", "always"):
        raise ConfigError(f"verify is {verify!r}; expected 'auto' or 'always'")
    count = thread_count(threads)
    bundle = Bundle.open(locate(model, variant or VARIANTS[provider][0]))
    manifest = bundle.manifest
    _check_kind(manifest, reranker)
    name = variant or preferred(bundle, provider)
    chosen = bundle.variant(name)
    # A manifest has no other values; see `format.manifest.FORMS`.
    form = choose_form(unicode, choose_form(manifest.unicode, EXACT))
    gpu = None
    if provider != "cpu" or latency or tuple(devices) != (0,) or gpu_mem_limit is not None:
        gpu = _gpu_options(provider, tuple(devices), gpu_mem_limit, latency)
    with named_limits():
        session, tokenizer, invariance, cuda_graphs = load(
            bundle,
            name,
            provider=provider,
            threads=count,
            encode_special_tokens=encode_special_tokens,
            unicode=form,
            verify=verify,
            gpu=gpu,
        )
    if unicode is not None:
        tokenizer.notice.stop()
    info: dict[str, Any] = {
        "model": manifest.model,
        "bundle": bundle.digest[:12],
        "variant": name,
        "provider": provider,
        "threads": count,
        "unicode": form,
        **invariance.as_info(),
    }
    if gpu is not None:
        info["devices"] = list(gpu.devices)
    if cuda_graphs is not None:
        info["cuda_graphs"] = cuda_graphs
    engine = Engine(session, chosen, manifest.dim, budget=budget, cost=COSTS.get(name, Cost()))
    reopening: dict[str, Any] = {
        "model": bundle.directory.absolute(),
        "provider": provider,
        "variant": name,
        "threads": threads,
        "budget": budget,
        "encode_special_tokens": encode_special_tokens,
        "unicode": unicode,
    }
    if not reranker:
        reopening |= {"latency": latency, "devices": tuple(devices), "gpu_mem_limit": gpu_mem_limit}
    return Opened(manifest, tokenizer, engine, info, reopening)


def reopened(kind: Callable[..., object], reopening: dict[str, Any] | None) -> tuple[Any, ...]:
    """What `__reduce__` of an opened model returns: a pickle holds the bundle's path, not its weights.

    Raises:
        ConfigError: it was not opened from a bundle.
    """
    if reopening is None:
        raise ConfigError(
            "this model was put together from its parts, so a pickle cannot say how to open it again; "
            "open its bundle in the other process"
        )
    return partial(kind, **reopening), ()


def preferred(bundle: Bundle, provider: str) -> str:
    """The best variant that a bundle has for a provider. Raises ConfigError where it has none."""
    for name in VARIANTS[provider]:
        if name in bundle.manifest.variants:
            return name
    raise ConfigError(
        f"the bundle has no variant for provider {provider!r} (it has "
        f"{', '.join(bundle.manifest.variants)}); name one with variant=, or build one of "
        f"{', '.join(VARIANTS[provider])}"
    )


def _check_kind(manifest: Manifest, reranker: bool) -> None:
    if manifest.reranker and not reranker:
        raise ConfigError(
            f"{manifest.model} is a reranker, which scores pairs and has no vectors; "
            "use Reranker.open, or `gte rerank`"
        )
    if reranker and not manifest.reranker:
        raise ConfigError(
            f"{manifest.model} is an embedding model, which has no pair head; "
            "use Embedder.open, or `gte embed`"
        )


def _gpu_options(provider: str, devices: tuple[int, ...], memory: int | None, latency: bool) -> CudaOptions:
    from .device.cuda import CudaOptions  # not needed on a CPU

    if provider == "cpu":
        raise ConfigError("latency, devices and gpu_mem_limit are for provider='cuda'")
    if latency and provider != "cuda":
        raise ConfigError(
            "latency=True is for provider='cuda'; TensorRT's engines are made by `gte engine build`"
        )
    return CudaOptions(devices=devices, memory=memory, latency=latency)
