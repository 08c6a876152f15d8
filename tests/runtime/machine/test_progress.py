"""A progress bar appears on a terminal, when it was asked for, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from gte_runtime.machine.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "show", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
    ids=["terminal", "not asked for", "no terminal"],
)
def test_where_a_bar_is_shown(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], show: bool, shown: bool
):
    """With the number of texts that are done."""
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(4, show) as advance:
        advance(3)
        advance(1)
    assert ("4/4" in stderr.getvalue()) == shown
    assert bool(stderr.getvalue()) == shown
