"""The page at `/`: one self-contained file that works offline. It needs no key; what it asks for does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..exchange import Answer, Exchange
from ..routes import Route

PAGE = Path(__file__).with_name("page.html")


@cache
def _page() -> bytes:
    return PAGE.read_bytes()


async def page(x: Exchange) -> Answer:
    return Answer(_page(), content_type="text/html; charset=utf-8")


def routes() -> list[Route]:
    from ..dialects.native import DIALECT

    return [Route(method="GET", path="/", handler=page, dialect=DIALECT, open=True, needs_ready=False, summary="The playground")]
