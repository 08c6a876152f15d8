"""Embeds any number of texts in bounded memory, part by part: while one part runs, the next one is
tokenized."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from .errors import ConfigError, InputError
from .machine.tasks import Task
from .tokenization import Tokens, no_sequence

TEXTS_PER_PART = 256
"""Enough to group texts by length, and few enough to hold in memory."""

T = TypeVar("T")

Tokenize = Callable[[Sequence[object], int], list[Tokens | InputError]]
"""(texts of a part, position of the first) -> the tokens of each, or why it was refused."""

Run = Callable[[int, list[Tokens | InputError]], T]
"""(position of the first text, result of `Tokenize`) -> the result of the part."""


def check_stream(texts: object, texts_per_part: object) -> None:
    """Raises InputError for what is no iterable of texts, and ConfigError for what is no size of a part."""
    hint = "; a single text goes to encode" if isinstance(texts, str) else no_sequence(texts)
    if hint:
        kind = type(texts).__name__
        raise InputError(f"expected an iterable of strings, found {kind}{hint}", got=kind)
    if isinstance(texts_per_part, bool) or not isinstance(texts_per_part, int) or texts_per_part < 1:
        raise ConfigError(f"texts_per_part is {texts_per_part!r}; expected an integer of at least 1")


def in_parts(texts: Iterator[object], size: int, tokenize: Tokenize, run: Run[T]) -> Iterator[T]:
    """The result of each part of `size` texts, in input order.

    `texts` is iterated in the caller's thread. If it raises, the results of the texts before it are yielded,
    then the error is raised. Two parts are read before the first result is yielded.
    """
    failure: Exception | None = None
    ahead: deque[tuple[int, Task[list[Tokens | InputError]]]] = deque()
    start = 0
    try:
        while failure is None or ahead:
            part: list[object] = []
            try:
                part.extend(itertools.islice(texts, size if failure is None else 0))
            except Exception as error:  # noqa: BLE001 - raised again, after the results before it
                failure = error
            if part:
                ahead.append((start, Task(partial(tokenize, part, start), "gte-tokenize")))
                ahead[-1][1].start()
                start += len(part)
            if not ahead:
                break
            if len(ahead) > 1 or not part:
                first, task = ahead[0]
                tokens = task.result()
                ahead.popleft()
                yield run(first, tokens)
    finally:
        for _, task in ahead:
            task.end()
    if failure is not None:
        raise failure
