"""`/openapi.json`: the routes described in OpenAPI 3.1, from themselves and their request types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..version import __version__
from .exchange import Answer, Exchange, json_answer
from .fields import Fate, fates
from .refusals import CODES, NATIVE, Refusal
from .routes import Route

WITHOUT_A_BODY = {
    *("invalid_request", "host_not_allowed", "origin_not_allowed", "method_not_allowed", "request_timeout"),
    *("headers_too_large", "too_many_connections", "draining", "internal"),
}
"""Codes of any request. The others are of bodies, of what is found for them, of keys, and of readiness."""


def with_description(routes: Sequence[Route]) -> list[Route]:
    """These routes and one more, which describes all of them and itself."""

    async def describe(x: Exchange) -> Answer:
        options = x.server.options
        return json_answer(document(described, options.strict, options.url_prefix))

    described = [
        *routes,
        Route(
            method="GET",
            path="/openapi.json",
            handler=describe,
            dialect=NATIVE,
            needs_ready=False,
            summary="This description",
        ),
    ]
    return described


def document(routes: Sequence[Route], strict: bool = False, url_prefix: str = "") -> dict[str, Any]:
    """The description. Unknown fields are refused only with `strict`."""
    requests = list({request: None for route in routes for request in route.requests})
    refs, schemas = msgspec.json.schema_components(requests, ref_template="#/components/schemas/{name}")
    ref_of = dict(zip(requests, refs, strict=True))
    for request in requests:
        schema = schemas[request.__name__]
        if not strict:
            schema.pop("additionalProperties", None)
        for name, fate in fates(request).items():
            schema["properties"][name] |= _of_fate(fate)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, ref_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gte serve",
            "version": __version__,
            "description": "Dense and sparse vectors, hybrid scores and reranking.",
        },
        **({"servers": [{"url": url_prefix}]} if url_prefix else {}),
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _of_fate(fate: Fate) -> dict[str, Any]:
    if fate.how == "done":
        return {"description": fate.why} if fate.why else {}
    words = {"refused": "Not supported: ", "warned": "Without effect: ", "unused": "Taken: "}
    described: dict[str, Any] = {"description": words[fate.how] + fate.why}
    return described | ({"enum": [None, *fate.unless]} if fate.how == "refused" else {})


def _operation(route: Route, ref_of: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done"}
    if route.answer is not None:
        good["content"] = {"application/json": {"schema": route.answer}}
    path = route.path.strip("/").replace("/", "_").replace("{id}", "one") or "root"
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}_{path}",
        "tags": [route.dialect.name],
        "responses": {"200": good, **_errors(route)},
        "security": [] if route.open else [{"key": []}, {}],
    }
    if route.requests:
        each = [ref_of[request] for request in route.requests]
        schema = each[0] if len(each) == 1 else {"anyOf": each}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{id}" in route.path:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation


def _errors(route: Route) -> dict[str, Any]:
    """The statuses that the route may answer with, and the codes of each."""
    named = "{id}" in route.path
    by_status: dict[int, list[str]] = {}
    for code in CODES:
        possible = {
            "unauthorized": not route.open,
            "not_found": False,
            "model_not_found": bool(route.requests) or named,
            "not_ready": route.needs_ready,
        }.get(code, bool(route.requests) or code in WITHOUT_A_BODY)
        if possible:
            for dialect in (route.dialect, *route.other_dialects):
                codes = by_status.setdefault(dialect.status(Refusal(code, "")), [])
                codes += [] if code in codes else [code]
    return {str(status): {"description": ", ".join(codes)} for status, codes in sorted(by_status.items())}
