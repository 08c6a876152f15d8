"""Who asks: the headers `host` and `origin` of a request. Pure.

A browser lets every web page send requests to this machine, and tells of it in two headers that scripts
cannot change. `origin` is the page. `host` is the name in the address: where the name of a page was made to
point to 127.0.0.1 (DNS rebinding), the browser takes this server for the page's own and lets it read the
answers, but `host` is not localhost. For most requests to another origin the browser asks first whether it
may send them (a preflight, https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from ..errors import ConfigError

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?", re.IGNORECASE)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?", re.IGNORECASE)
TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")
"""Names of headers (RFC 9110, 5.6.2), separated by commas."""
PORTS = {"http": ":80", "https": ":443"}
"""Left out of an origin, and of a host."""


def check_hosts(names: Sequence[str]) -> None:
    """Raises ConfigError for what is not the name of a host."""
    for name in names:
        found = HOST.fullmatch(name)
        if name != "*" and (found is None or found[2]):
            raise ConfigError(
                f"allow_host is {name[:80]!r}; expected a name or an address without a port, or *"
            )


def check_origins(origins: Sequence[str]) -> None:
    """Raises ConfigError for what is not an origin."""
    for origin in origins:
        if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"cors_allow_origin is {origin[:80]!r}; expected such as https://example.org or"
                " http://localhost:3000, without a path, or *"
            )


def host_allowed(host: bytes, names: Sequence[str]) -> bool:
    """The value of the header `host` is this machine by its loopback address, or one of the names."""
    if "*" in names:
        return True
    found = HOST.fullmatch(host.decode("latin-1"))
    if found is None:
        return False
    name = found[1].lower()
    if name == "localhost" or name in (allowed.lower() for allowed in names):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def origin_is_own(origin: bytes, host: bytes | None, schemes: Sequence[str]) -> bool:
    """The origin is this server by the scheme, host and port with which the request came."""
    if host is None:
        return False
    given = origin.decode("latin-1").lower()
    name = host.decode("latin-1").lower()
    return any(
        given.removesuffix(PORTS[scheme]) == f"{scheme}://{name}".removesuffix(PORTS[scheme])
        for scheme in schemes
    )


def origin_allowed(origin: bytes, origins: Sequence[str]) -> bool:
    """It is one of the origins. It must look like an origin even for "*", because it is sent back."""
    given = origin.decode("latin-1").lower()
    if given != "null" and not ORIGIN.fullmatch(given):
        return False
    return "*" in origins or given in (allowed.lower() for allowed in origins)


def answers_preflight(asked: bytes | None, methods: str) -> dict[str, str]:
    """The headers that let a page send what it asked to send: `asked` are the names of its headers."""
    headers = {"access-control-allow-methods": methods, "access-control-max-age": "600"}
    if asked and TOKENS.fullmatch(asked):
        headers["access-control-allow-headers"] = asked.decode()
    return headers
