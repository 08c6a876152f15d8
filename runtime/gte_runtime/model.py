"""What models have in common when they are open: their parts, and how they are shown, pickled and closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from .format.manifest import Manifest
from .inference.engine import Engine
from .tokenization import Tokenizer

SHOWN = ("variant", "provider", "threads")
"""Names of `info` that `repr` shows."""


class Model:
    """An open model. Safe to use from several threads. Close it, or use `with`."""

    open: Callable[..., Any]

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        info: dict[str, Any] | None = None,
        reopening: dict[str, Any] | None = None,
    ) -> None:
        """Put a model together from its parts. `open` does this for a bundle on disk.

        `reopening` are the arguments with which a pickle opens it again; without them it has none.
        """
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.engine = engine
        self._reopening = reopening
        self.info = info or {}
        """Model, bundle, variant, provider, threads and batch invariance. For people and logs."""

    def close(self) -> None:
        """Stop all runs and release the memory."""
        self.engine.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the bundle's path and the arguments of `open`: the other process opens it again."""
        from .opening import reopened  # here, so that `import gte_runtime` stays fast

        return reopened(type(self).open, self._reopening)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={self.info[name]!r}" for name in SHOWN if name in self.info)
        return f"{type(self).__name__}({self.manifest.model!r}{', ' if facts else ''}{facts})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
