"""The server's options and their limits. Every limit is an option of `gte serve`, and errors name it."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ..errors import ConfigError
from .origin import check_hosts, check_origins

MIB = 2**20
PREFIX = re.compile("(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a server runs. All times are seconds."""

    keys: tuple[bytes, ...] = ()
    """A request must present one of these; if there are none, every request is accepted."""
    strict: bool = False
    """Refuse unknown fields instead of warning about them."""
    strict_model: bool = False
    """Refuse unknown model names instead of using the default model."""
    accept_token_ids: bool = False
    allow_empty: bool = False
    """Embed the empty string instead of refusing it."""
    check_host: bool = False
    """Refuse requests to another host than this machine. Without it, a web page whose name was made to point
    to 127.0.0.1 may ask, and read the answers."""
    allow_hosts: tuple[str, ...] = ()
    """Other names in the header `host`; "*" is every name."""
    allow_origins: tuple[str, ...] = ()
    """Web pages of these origins may ask and read the answers; "*" is every page."""

    url_prefix: str = ""
    """Put before every path, such as /gte. Health and metrics answer without it, too."""

    max_body: int = 16 * MIB
    """Bytes of a body, as received and as decompressed."""
    max_inputs: int = 2048
    max_request_tokens: int = 300_000
    max_documents: int = 1000
    max_token_vectors: int = 8192
    """Tokens of a request for a vector per token. At a width of 768 a token takes some 9 kB in the answer."""
    max_queue_tokens: int = 16 * 16_384
    """Tokens that may wait or run."""
    max_held: int = 256 * MIB
    """Bytes of the bodies of all requests in flight, and of the large answers that are not sent yet."""
    max_values: int = 1_000_000
    """JSON values of a body, lists and objects counted twice. Each may take 50 bytes of memory and more."""
    max_header_bytes: int = 16 * 1024
    max_headers: int = 100
    max_connections: int = 1000

    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    keep_alive: float = 75.0
    """Longer than load balancers keep an idle connection, mostly 60 seconds: who closes it must be the one
    who would send the next request on it, or that request is lost."""
    drain_timeout: float = 30.0
    stall_timeout: float = 120.0
    """A run that takes longer is stuck, unless the runs before it were as slow for their tokens."""
    check_every: float = 30.0
    """An idle server runs a text this often, to find out whether it still can."""
    patience: float = 0.002
    """A text waits at most this long for a fuller batch, while another run goes on."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not value >= (0 if item.name == "patience" else 1 if isinstance(value, int) else 1e-3):
                raise ConfigError(f"{item.name} is {value!r}; expected a positive number")
        if self.url_prefix and not PREFIX.fullmatch(self.url_prefix):
            raise ConfigError(f"url_prefix is {self.url_prefix[:80]!r}; expected such as /gte or /api/gte")
        check_hosts(self.allow_hosts)
        check_origins(self.allow_origins)
        if any(not key for key in self.keys):
            raise ConfigError("an API key is empty; then everybody would have it")
