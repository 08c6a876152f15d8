"""`gte serve`: the HTTP server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, ProviderError
from .options import form_of, unicode_option

if TYPE_CHECKING:
    from ..server.models import ServedModel
    from ..tokenization import Form

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "GTE_API_KEY"

LIMITS = {
    "max_body": (int, "Bytes of a request's body, as sent and as decompressed."),
    "max_inputs": (int, "Texts of one request."),
    "max_documents": (int, "Documents of one request to rerank or score."),
    "max_request_tokens": (int, "Tokens of one request."),
    "max_token_vectors": (int, "Tokens of one request for a vector of each token."),
    "max_queue_tokens": (int, "Tokens that may wait or run; above, requests get 429."),
    "max_held": (
        int,
        "Bytes of the bodies of all requests in flight, and of large answers until they are sent.",
    ),
    "max_values": (int, "JSON values of a request's body, lists and objects counted twice."),
    "max_header_bytes": (int, "Bytes of a request's head."),
    "max_headers": (int, "Headers of a request."),
    "max_connections": (int, "Connections at a time."),
    "header_timeout": (float, "Seconds for a request's head to come in."),
    "body_timeout": (float, "Seconds for its body."),
    "write_timeout": (float, "Seconds for the client to read on."),
    "keep_alive": (float, "Seconds an idle connection is kept. Longer than a load balancer keeps it."),
    "drain_timeout": (float, "Seconds for requests in flight when told to stop."),
    "stall_timeout": (float, "Seconds after which a run counts as stuck."),
    "check_every": (float, "Seconds after which an idle model is checked with a run."),
    "patience": (float, "Seconds a text may wait for others to batch it with, while another run goes on."),
}


def limit_options(function: Any) -> Any:
    from dataclasses import fields

    from ..server.options import Options

    defaults = {field.name: field.default for field in fields(Options)}
    for name, (kind, words) in reversed(LIMITS.items()):
        function = click.option(
            f"--{name.replace('_', '-')}", type=kind, default=defaults[name], show_default=True, help=words
        )(function)
    return function


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("gte-mini",),
    show_default=True,
    metavar="[NAME=]PATH",
    help="A bundle directory or a shipped model, served under NAME or else under the name in its manifest. "
    "May be given several times. The first of each kind answers to any name.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Any other than loopback needs a key, or --insecure.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7997, show_default=True, help="0 takes a free one."
)
@click.option("--variant", help="A variant of the bundles. Default: the best for the provider.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="Where to run. There is no fallback.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Processors to use. Default: all this process may use."
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help=f"A file of keys, one per line. Or set {KEY_VARIABLE}.",
)
@click.option("--insecure", is_flag=True, help="Serve an address that others reach, without a key.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which this server is asked, or * for all. On loopback, only requests to localhost, a "
    "loopback address or such a name are answered: others come from pages whose name was made to point here.",
)
@click.option(
    "--cors-allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Web pages of this origin, such as https://example.org, may send requests and read the answers. "
    "Without it, none but the playground may. * is every page.",
)
@click.option(
    "--url-prefix",
    default="",
    metavar="P",
    help="Put before every path, such as /gte. Health and metrics answer without it, too.",
)
@click.option("--strict", is_flag=True, help="Refuse unknown fields instead of warning of them.")
@click.option(
    "--strict-model", is_flag=True, help="Refuse unknown model names instead of answering with the default."
)
@click.option(
    "--accept-token-ids", is_flag=True, help="Take token ids of the model's own tokenizer as input."
)
@click.option("--allow-empty", is_flag=True, help="Embed the empty string instead of refusing it.")
@click.option(
    "--encode-special-tokens", is_flag=True, help="Read </s> and the like inside a text as plain characters."
)
@unicode_option
@click.option("--log-format", type=click.Choice(["json", "plain"]), default="json", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@limit_options
def command(
    models: tuple[str, ...],
    host: str,
    port: int,
    variant: str | None,
    provider: str,
    threads: int | None,
    api_key_file: Path | None,
    insecure: bool,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    url_prefix: str,
    strict: bool,
    strict_model: bool,
    accept_token_ids: bool,
    allow_empty: bool,
    encode_special_tokens: bool,
    nfc: bool | None,
    log_format: str,
    log_level: str,
    **limits: Any,
) -> int:
    """Vectors, scores and ranks over HTTP.

    Speaks the dialects of OpenAI, infinity, TEI, Cohere, Jina, vLLM and DashScope, and its own. The model is
    loaded and checked before the port opens. After SIGTERM, requests in flight are finished; then the exit
    code is 0.
    """
    from ..server.options import Options

    keys = _keys(api_key_file)
    options = Options(
        keys=keys,
        allow_hosts=allow_hosts,
        allow_origins=allow_origins,
        url_prefix=f"/{url_prefix.strip('/')}" if url_prefix.strip("/") else "",
        strict=strict,
        strict_model=strict_model,
        accept_token_ids=accept_token_ids,
        allow_empty=allow_empty,
        **limits,
    )
    if host not in LOOPBACK and not keys and not insecure:
        raise click.UsageError(
            f"{host} can be reached by others: give --api-key-file or set {KEY_VARIABLE}, or pass --insecure"
        )
    try:
        from ..server.serve import serve, take_address
    except ImportError as error:
        raise ProviderError(f"{error.name} is not installed; pip install 'gte-runtime[server]'") from None
    opened: list[ServedModel] = []
    listening = take_address(host, port)  # before models load, which may take a minute
    try:
        for name, path in map(named, models):
            opened.append(_open(path, provider, variant, threads, encode_special_tokens, form_of(nfc), name))
        names = [served.name for served in opened]
        if twice := [name for name in names if names.count(name) > 1]:
            raise click.UsageError(
                f"two of the models have the name {twice[0]}; give them others: --model NAME=PATH"
            )
        return serve(
            opened, options, host=host, listening=listening, log_format=log_format, log_level=log_level
        )
    finally:
        listening.close()
        for served in opened:
            served.close()


def named(model: str) -> tuple[str | None, str]:
    """(name, path) of NAME=PATH. What exists is a path, whatever is in its name. Raises UsageError."""
    name, equals, path = model.partition("=")
    if not equals or Path(model).exists():
        return None, model
    if not (name and path and name.isprintable() and len(name) <= 200):
        raise click.UsageError(f"--model {model[:80]!r}: expected PATH or NAME=PATH")
    return name, path


def _open(
    model: str,
    provider: str,
    variant: str | None,
    threads: int | None,
    encode_special_tokens: bool,
    unicode: Form | None = None,
    name: str | None = None,
) -> ServedModel:
    """Open a bundle of either kind and run it once on one processor and once on all, so that no request waits
    for memory and threads that are set up at a first run."""
    from ..bundle.directory import Bundle
    from ..catalog.locate import locate
    from ..embedder import Embedder
    from ..opening import VARIANTS
    from ..reranker import Reranker
    from ..server.models import EmbeddingModel, RerankerModel

    manifest = Bundle.open(locate(model, variant or VARIANTS[provider][0])).manifest
    options: dict[str, Any] = {
        "provider": provider,
        "variant": variant,
        "threads": threads,
        "encode_special_tokens": encode_special_tokens,
        "unicode": unicode,
    }
    served: ServedModel
    if manifest.reranker:
        served = RerankerModel(name or manifest.model, Reranker.open(model, **options))
    else:
        served = EmbeddingModel(name or manifest.model, Embedder.open(model, **options))
    for share in ("one", "all"):
        served.check(share)
    return served


def _keys(file: Path | None) -> tuple[bytes, ...]:
    """API keys of the file, or else of the environment. Raises ConfigError for an empty one."""
    if file is not None:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"the key file cannot be read: {error.strerror}") from None
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise ConfigError("the key file holds no key")
        return keys
    if KEY_VARIABLE in os.environ:
        key = os.environb[KEY_VARIABLE.encode()].strip()
        if not key:
            raise ConfigError(f"{KEY_VARIABLE} is set and empty; unset it, or give a key")
        return (key,)
    return ()
