"""`/openapi.json`: the routes described in OpenAPI 3.1, from themselves and their request types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..version import __version__
from .exchange import Answer, Exchange, json_answer
from .refusals import CODES, NATIVE, Refusal
from .routes import Route


def with_description(routes: Sequence[Route]) -> list[Route]:
    """These routes and one more, which describes all of them and itself."""

    async def describe(x: Exchange) -> Answer:
        return json_answer(document(described))

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


def document(routes: Sequence[Route]) -> dict[str, Any]:
    requests = list({route.request: None for route in routes if route.request is not None})
    refs, schemas = msgspec.json.schema_components(requests, ref_template="#/components/schemas/{name}")
    ref_of = dict(zip(requests, refs, strict=True))
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
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


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
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": ref_of[route.request]}},
        }
    if "{id}" in route.path:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation


def _errors(route: Route) -> dict[str, Any]:
    """The statuses that the dialect may answer with, and the codes of each."""
    by_status: dict[int, list[str]] = {}
    for code in CODES:
        by_status.setdefault(route.dialect.status(Refusal(code, "")), []).append(code)
    return {str(status): {"description": ", ".join(codes)} for status, codes in sorted(by_status.items())}
