"""The one address that changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dashscope
import pytest


@pytest.fixture(autouse=True)
def _one_address(server: Any) -> Iterator[None]:
    """As DASHSCOPE_HTTP_BASE_URL and DASHSCOPE_API_KEY set it; the package reads them when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashscope, "base_http_api_url", f"{server.url}/api/v1")
        patch.setattr(dashscope, "api_key", server.key)
        patch.setenv("DASHSCOPE_HTTP_BASE_URL", f"{server.url}/api/v1")
        patch.setenv("DASHSCOPE_API_KEY", server.key)
        yield
