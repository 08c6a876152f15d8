"""Routes: what is at a path, the dialect of its errors, and what the OpenAPI document says of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from .exchange import Answer, Exchange
from .refusals import Dialect, Refusal

Handler = Callable[[Exchange], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    """An exact path, or one that ends in `{id}`."""
    handler: Handler
    dialect: Dialect
    summary: str
    request: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None = None
    """What the body is, or what it may be."""
    other_dialects: tuple[Dialect, ...] = ()
    """Those of its errors that the body may choose."""
    answer: Mapping[str, Any] | None = None
    """JSON schema of the body of a 200."""
    open: bool = False
    """Needs no key."""
    needs_ready: bool = True
    """Is refused while the server is not ready."""

    @property
    def requests(self) -> tuple[type[msgspec.Struct], ...]:
        if self.request is None:
            return ()
        return self.request if isinstance(self.request, tuple) else (self.request,)


SLASHES = re.compile("/{2,}")


def plain(path: str) -> str:
    """The path with single slashes and none at its end: clients put addresses together from parts that end or
    begin with one."""
    return SLASHES.sub("/", path).rstrip("/") or "/"


MOST_PARTS = 16
"""Parts of an unknown path that are looked at for a hint."""


class Table:
    """Finds routes by the plain path. Beyond its slashes, nothing is decoded, collapsed or redirected."""

    def __init__(self, routes: Sequence[Route], url_prefix: str = "") -> None:
        self._url_prefix = url_prefix
        """Of the addresses in errors. Paths come without it, and as "" if they did not have it."""
        self._exact: dict[str, dict[str, Route]] = {}
        self._prefix: dict[str, dict[str, Route]] = {}
        for route in routes:
            paths = self._prefix if route.path.endswith("{id}") else self._exact
            methods = paths.setdefault(route.path.removesuffix("{id}"), {})
            assert route.method not in methods, f"{route.method} {route.path} is defined twice"
            methods[route.method] = route

    def nearest(self, method: str, path: str) -> Route | None:
        """The route of a path by this method, or else by another method; None at an unknown path."""
        methods = self._at(path)
        return methods.get(_looked_up(method)) or next(iter(methods.values()), None)

    def find(self, method: str, path: str) -> Route:
        """The route of a path by this method. Raises Refusal."""
        methods = self._at(path)
        if not methods:
            hint = f"GET {self._url_prefix}/openapi.json lists what there is"
            if not path:
                hint = f"all paths begin with {self._url_prefix}/ (--url-prefix)"
            elif meant := self._meant(path):
                there = f"{self._url_prefix}{meant}"
                hint = f"is it {there}? The base URL may end in a slash, or in a part of the path, too many"
            raise Refusal("not_found", f"there is nothing at this path; {hint}")
        route = methods.get(_looked_up(method))
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise Refusal("method_not_allowed", f"this path takes {allowed}", headers={"allow": allowed})
        return route

    def _meant(self, path: str) -> str | None:
        """The longest end of the path, slashes not counted, that is the path of a route."""
        parts = [part for part in path.split("/")[:MOST_PARTS] if part]
        ends = ("/" + "/".join(parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end in self._exact), None)

    def _at(self, path: str) -> dict[str, Route]:
        """Routes of a path by method."""
        if path in self._exact:
            return self._exact[path]
        for prefix, methods in self._prefix.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return methods
        return {}


def _looked_up(method: str) -> str:
    """HEAD is answered as GET is, and uvicorn leaves out the body (RFC 9110, 9.3.2)."""
    return "GET" if method == "HEAD" else method
