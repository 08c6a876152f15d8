"""A progress bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class Progress:
    """`with Progress(...) as advance`; then `advance(n)` adds n items to the bar.

    There is a bar only if `show` is true and stderr is a terminal. Without a total it shows count and rate.
    """

    def __init__(self, total: int | None, show: bool, unit: str = "text") -> None:
        self._bar: Any = None
        if show and sys.stderr.isatty():
            from tqdm import tqdm  # here, so that a run without a bar does not load it

            self._bar = tqdm(total=total, unit=unit, file=sys.stderr)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update if self._bar is not None else lambda n: None

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
