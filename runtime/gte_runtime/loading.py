"""From a bundle on disk to a session and a tokenizer that are proven to be its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from .bundle import Bundle, Verify
from .errors import GteError
from .graph import check_operators, check_pointers, inspect_graph
from .selfcheck import self_check
from .session import OrtSession
from .tokenization import Tokenizer


def load(
    bundle: Bundle, name: str, *, provider: str, threads: int, encode_special_tokens: bool, verify: Verify
) -> tuple[OrtSession, Tokenizer]:
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
        opened = loading.submit(
            OrtSession, graph, bundle.directory, variant, manifest.architecture.hidden_size, provider=provider, threads=threads
        )
        try:
            tokenizer = Tokenizer(bundle.read("tokenizer.json"), manifest.tokenizer, encode_special_tokens=encode_special_tokens)
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
    except BaseException:
        session.close()
        raise
    bundle.remember(checked)
    return session, tokenizer
