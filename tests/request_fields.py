"""Writes docs/request-fields.md from the server's request types: python tests/request_fields.py

Who defines a field is in tests/data/published-fields.json, which was read from packages and descriptions that
the other projects publish.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from gte_runtime.server.app import all_routes
from gte_runtime.server.fields import fates

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "request-fields.md"
PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (REPOSITORY / "tests" / "data" / "published-fields.json").read_text()
)
WORDS = {"done": "done", "refused": "refused", "warned": "warning", "unused": "no effect to have"}

HEAD = """# What becomes of a request's fields

Nothing that a client sends is dropped in silence. A field is **done**; or **refused** by its name; or a
**warning** says that it has no effect, in the header `x-gte-warning` and, where the answer is an object, in
it: `warnings`, and for Cohere's clients `meta.warnings`. What has **no effect to have** says nothing about
the answer. A field that no server defines gets a warning, and with `gte serve --strict` it is refused.

A field means the same on every route that has it, so a field of one dialect may be sent to a route that it
shares with another. Two fields that contradict each other are refused, and both are named. `"true"`,
`"false"` and `"8"` count as what they spell where a boolean or an integer is expected, and `null` as absent.

A text may be a string, or an object that holds one: `{"text": ...}`, `{"prompt_string": ...}`, or
`{"content": [{"type": "text", "text": ...}]}`. `prompt` and `prompt_name` name a prompt of the model.
`input_type` and `task` say what the text is for, in the words of Cohere, Jina, Voyage or NIM (`query`,
`search_query`, `retrieval.query`; `document`, `passage`, `search_document`, `retrieval.passage`;
`classification`, `clustering`, `text-matching`, ...), and choose the prompt of that name or meaning.

Types of numbers, x being a value of a vector of length 1: `int8` is round(127 x), `uint8` the same + 128;
`ubinary` has the signs of eight values in a byte, 1 for x > 0, the first in the highest bit; `binary` is
`ubinary` - 128; `base64` is the little-endian bytes. The rounding to eight bits moves a cosine by some 0.002
at 768 values.

This page is written by `tests/request_fields.py`. "Defined by" was read from {sources}.
"""


def page() -> str:
    sources = ", ".join(f"{name} {facts['version']}" for name, facts in sorted(PUBLISHED.items()))
    parts = [HEAD.replace("{sources}", sources)]
    for paths, requests in _tables():
        title = ", ".join(f"`{path}`" for path in paths)
        parts.append(f"## {title}\n\n| field | | defined by |\n|---|---|---|")
        for request in requests:
            for name, fate in fates(request).items():
                unless = "".join(f", but for `{json.dumps(value)}`" for value in fate.unless)
                what = WORDS[fate.how] + unless + (f": {fate.why}" if fate.why else "")
                by = ", ".join(who for who in sorted(PUBLISHED) if name in published(who, paths))
                parts.append(f"| `{name}` | {what} | {by} |".replace("|  |", "| |"))
        parts.append("")
    return "\n".join(parts)


def published(who: str, paths: list[str]) -> set[str]:
    routes = PUBLISHED[who]["routes"]
    return {name for path in paths for name in routes.get(path, "").split()}


def _tables() -> list[tuple[list[str], tuple[type[msgspec.Struct], ...]]]:
    """Paths that take the same request, and it. Those that take any are left out."""
    tables: dict[tuple[type[msgspec.Struct], ...], list[str]] = {}
    for route in all_routes():
        if len(route.requests) == 1:
            tables.setdefault(route.requests, []).append(route.path)
    return [(paths, requests) for requests, paths in tables.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
