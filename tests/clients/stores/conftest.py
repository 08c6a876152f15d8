"""Coroutines of LangChain's own tests are run: they carry no mark of pytest-asyncio."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.option.asyncio_mode = "auto"
