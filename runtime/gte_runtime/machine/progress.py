"""A bar on stderr while texts run, if asked for and if stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class Progress:
    """`with Progress(...) as advance`: call it with the number of texts that are done. Without a total it counts."""

    def __init__(self, total: int | None, show: bool, unit: str = "text") -> None:
        self._bar: Any = None
        if show and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=unit, file=sys.stderr)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update if self._bar is not None else lambda n: None

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
