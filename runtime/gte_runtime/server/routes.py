"""What stands at a path: the handler, the dialect its errors speak, and what its description says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .exchange import Answer, Exchange
from .refusals import Refusal

Handler = Callable[[Exchange], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of clients reads errors."""

    name: str
    status: Callable[[Refusal], int]
    error: Callable[[Refusal, int, str], Any]
    """(refusal, status, request id) -> body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    """An exact path, or one that ends in `{id}`."""
    handler: Handler
    dialect: Dialect
    summary: str
    request: type[msgspec.Struct] | None = None
    answer: Mapping[str, Any] | None = None
    """JSON schema of a 200."""
    open: bool = False
    """Needs no key."""
    needs_ready: bool = True
    """Is refused while the server is not ready."""


class Table:
    """Finds routes by the raw path, byte for byte: nothing is decoded, collapsed or redirected."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._exact: dict[str, dict[str, Route]] = {}
        self._prefix: dict[str, dict[str, Route]] = {}
        for route in routes:
            place = self._prefix if route.path.endswith("{id}") else self._exact
            methods = place.setdefault(route.path.removesuffix("{id}"), {})
            assert route.method not in methods, f"{route.method} {route.path} stands twice"
            methods[route.method] = route

    def at(self, path: str) -> dict[str, Route]:
        """Routes of a path by method; none for a path that is not known."""
        if path in self._exact:
            return self._exact[path]
        for prefix, methods in self._prefix.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return methods
        return {}

    def find(self, method: str, path: str) -> Route:
        """Raises Refusal: not found, or not by this method."""
        methods = self.at(path)
        if not methods:
            raise Refusal("not_found", "there is nothing at this path; GET /openapi.json lists what there is")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise Refusal("method_not_allowed", f"this path takes {allowed}", headers={"allow": allowed})
        return route
