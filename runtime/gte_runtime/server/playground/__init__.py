"""The page at `/`: one self-contained file that works offline. It needs no key; the requests it makes do.

It is put together from three files, so that its content security policy can name the hashes of its only
script and its only style sheet, and the browser runs nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from ..exchange import Answer, Exchange
from ..refusals import NATIVE
from ..routes import Route

HERE = Path(__file__).parent


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    """(page, headers)"""
    page, style, script = (
        HERE.joinpath(name).read_text("utf-8") for name in ("page.html", "style.css", "script.js")
    )
    whole = page.replace("/* style.css */", style).replace("/* script.js */", script)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return whole.encode(), headers


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


async def page(x: Exchange) -> Answer:
    prefix = x.server.options.url_prefix
    if prefix and not str(x.scope.get("raw_path", b"/"), "latin-1").endswith("/"):
        # The page asks for addresses beside its own.
        return Answer(b"", 308, headers={"location": f"{prefix}/"})
    body, headers = _page()
    return Answer(body, content_type="text/html; charset=utf-8", headers=dict(headers))


def routes() -> list[Route]:
    return [
        Route(
            method="GET",
            path="/",
            handler=page,
            dialect=NATIVE,
            open=True,
            needs_ready=False,
            summary="The playground",
        )
    ]
