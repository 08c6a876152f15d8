"""Any number of texts in bounded memory: while one part runs, the next one is tokenized."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from .errors import InputError
from .tokenization import Tokens

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

Tokenize = Callable[[Sequence[object], int], list[Tokens | InputError]]
"""(texts of a part, position of the first) -> tokens of each, or why it was refused."""

Run = Callable[[int, list[Tokens | InputError]], T]
"""(position of the first text, what `Tokenize` gave) -> the result of the part."""


def in_parts(texts: Iterator[object], size: int, tokenize: Tokenize, run: Run[T]) -> Iterator[T]:
    """The result of each part of `size` texts, in input order.

    `texts` is iterated in the caller's thread. If it raises, the parts of the texts before come first, then the error.
    Two parts are read before the first result is given.
    """
    from concurrent.futures import ThreadPoolExecutor  # brings logging along; only streams pay for it

    failure: Exception | None = None
    ahead: deque[tuple[int, Future[list[Tokens | InputError]]]] = deque()
    start = 0
    with ThreadPoolExecutor(1, thread_name_prefix="gte-tokenize") as tokenizing:
        while failure is None or ahead:
            part: list[object] = []
            try:
                part.extend(itertools.islice(texts, size if failure is None else 0))
            except Exception as error:  # noqa: BLE001 - what came before is given first
                failure = error
            if part:
                ahead.append((start, tokenizing.submit(tokenize, part, start)))
                start += len(part)
            if not ahead:
                break
            if len(ahead) > 1 or not part:
                first, tokenized = ahead.popleft()
                yield run(first, tokenized.result())
    if failure is not None:
        raise failure
