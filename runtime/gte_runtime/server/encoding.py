"""From the texts of a request to what the model says of them: checks, tokens, the queue, errors that name the text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import scoring
from ..arrays import Float32
from ..errors import ConfigError, GteError, InputError, InputTooLongError
from ..tokenization import Tokens, encode_each
from .dispatch import first_error
from .exchange import Exchange
from .models import EmbeddingModel, ServedModel
from .refusals import Refusal, refusal_of

INLINE = 2048
"""Characters that are tokenized in the event loop's thread: that takes less than a thread's start."""

STATE_BYTES = 16
"""Of one value of a state while its request is in flight: 4 as float32, some 11 in JSON."""

Place = Callable[[int | None], str]
"""The name of a text in the request, such as `input[3]`, or of its list."""


@dataclass(slots=True)
class Encoded:
    """N texts in input order."""

    model: Any
    tokens: list[Tokens]
    states: list[Any]
    """What the model gives for each: a State."""
    index: list[int]
    """Position of each in the request."""
    errors: dict[int, Refusal] = field(default_factory=dict)
    """Texts without a vector, where the request takes them one by one."""

    @property
    def token_count(self) -> int:
        return sum(len(t.ids) for t in self.tokens)

    @property
    def truncated(self) -> int:
        return sum(t.truncated for t in self.tokens)

    def dense(self, dim: int | None = None, normalise: bool = True) -> Float32:
        """[N, dim], cut, then normalised."""
        width = dim or self.model.dim
        cls = (
            np.stack([s.cls for s in self.states])
            if self.states
            else np.zeros((0, self.model.dim), np.float32)
        )
        return scoring.cut_and_normalise(cls, width) if normalise else np.ascontiguousarray(cls[:, :width])


def named(name: str) -> Place:
    """Places of a field that holds one text or a list of them."""
    return lambda index: name if index is None else f"{name}[{index}]"


def as_list(value: object, x: Exchange, place: Place, limit: int, flag: str) -> tuple[list[Any], Place]:
    """One text or many as a list. A flat list of integers is one text, as ids.

    Raises:
        Refusal: empty, too many, or ids where they are not taken.
    """
    if isinstance(value, str):
        items, place = [value], _alone(place)
    else:
        items = list(value)  # type: ignore[call-overload]
        if items and all(type(item) is int for item in items):
            items, place = [items], _alone(place)
    if not items:
        raise Refusal("empty_input", f"{place(None)} is empty; send at least one text", param=place(None))
    if len(items) > limit:
        raise Refusal(
            "too_many_inputs",
            f"{place(None)} has {len(items)} texts, the limit is {limit} ({flag})",
            param=place(None),
        )
    for index, item in enumerate(items):
        if item == "" and not x.app.options.allow_empty:
            raise Refusal(
                "empty_input", f"{place(index)} is an empty string; leave it out", param=place(index)
            )
        if not isinstance(item, str):
            _check_ids(item, x, place(index))
    return items, place


def _alone(place: Place) -> Place:
    return lambda index: place(None)


def _check_ids(item: object, x: Exchange, where: str) -> None:
    if type(item) is int or not isinstance(item, list):
        raise Refusal("invalid_type", f"{where}: expected a string, found {type(item).__name__}", param=where)
    if not x.app.options.accept_token_ids:
        hint = "send the text (LangChain: check_embedding_ctx_length=False); a server started with --accept-token-ids takes its own ids"
        raise Refusal(
            "invalid_type",
            f"{where}: token ids are not accepted, they belong to one tokenizer; {hint}",
            param=where,
        )


async def encode(
    x: Exchange,
    model: ServedModel,
    texts: Sequence[Any],
    place: Place,
    *,
    max_length: int | None = None,
    truncate: bool = True,
    left: bool = False,
    one_by_one: bool = False,
    per_token: bool = False,
    prompt: str = "",
) -> Encoded:
    """Run texts. With `one_by_one` a text that fails has an entry in `errors`; otherwise it fails the request.
    `per_token` is for models whose answers hold a vector per token: what they take is bounded too. `prompt` goes before every text.

    Raises:
        Refusal: naming the text.
        Disconnected: the client left.
    """
    app, timeout = x.app, x.timeout()
    begun = time.monotonic()
    # Refused before any work where there is no room even for the shortest text.
    if app.dispatcher.scheduler.held >= app.options.max_queue_tokens:
        raise app.dispatcher.overloaded()
    try:
        max_length = model.length_limit(max_length)
    except ConfigError as error:
        raise Refusal("invalid_value", str(error), param="max_length") from None
    if prompt:
        texts = [prompt + text if isinstance(text, str) else text for text in texts]
    work = partial(_tokenize, model, texts, max_length, truncate, left)
    x.characters = sum(sum(map(len, text)) if isinstance(text, tuple) else len(text) for text in texts)
    if x.characters <= INLINE:
        tokenized = work()
    else:
        tokenized = await asyncio.get_running_loop().run_in_executor(app.tokenizing, work)
    x.times["tokenization"] = time.monotonic() - begun
    app.metrics.tokenize_seconds.observe(x.times["tokenization"])
    errors = {i: refusal_of(t, place(i)) for i, t in enumerate(tokenized) if isinstance(t, GteError)}
    if errors and not one_by_one:
        raise next(iter(errors.values()))
    index = [i for i in range(len(tokenized)) if i not in errors]
    tokens: list[Tokens] = [tokenized[i] for i in index]  # type: ignore[misc]
    out = Encoded(model, tokens, [], index, errors)
    count = out.token_count
    flag = "max_token_vectors" if per_token else "max_request_tokens"
    if count > (most := getattr(app.options, flag)):
        limit = f"{most} (--{flag.replace('_', '-')})"
        raise Refusal(
            "request_too_large",
            f"{place(None)} has {count} tokens, the limit is {limit}; split it",
            param=place(None),
        )
    x.texts, x.tokens, x.truncated = x.texts + len(texts), x.tokens + count, x.truncated + out.truncated
    app.metrics.truncated.inc(out.truncated)
    if not tokens:
        return out
    if per_token:
        x.hold_answer(count * model.manifest.architecture.hidden_size * STATE_BYTES)
    if timeout is not None:
        timeout -= time.monotonic() - begun
    done = await x.unless_disconnected(
        app.dispatcher.run(model, [len(t.ids) for t in tokens], tokens, timeout)
    )
    x.times["queue"], x.times["inference"] = done.queued, done.running
    failed = first_error(done.answers)
    if failed is None:
        out.states = done.answers
        return out
    if not one_by_one:
        row, cause = failed
        raise app.refusal(cause, place(index[row]))
    for row, answer in enumerate(done.answers):
        if isinstance(answer, BaseException):
            errors[index[row]] = app.refusal(answer, place(index[row]))
    good = [row for row, answer in enumerate(done.answers) if not isinstance(answer, BaseException)]
    return Encoded(
        model, [tokens[r] for r in good], [done.answers[r] for r in good], [index[r] for r in good], errors
    )


def _tokenize(
    model: ServedModel, texts: Sequence[Any], max_length: int, truncate: bool, left: bool
) -> list[Tokens | InputError]:
    """The tokens of each text, or why it was refused. Lists are token ids already."""

    def encode(part: Sequence[Any], first: int) -> list[Tokens]:
        return model.tokenize(part, max_length=max_length, truncate=truncate, left=left)

    plain = iter(encode_each(encode, [text for text in texts if not isinstance(text, list)]))
    return [
        _verbatim(text, index, model, max_length) if isinstance(text, list) else next(plain)
        for index, text in enumerate(texts)
    ]


def _verbatim(ids: Sequence[object], index: int, model: ServedModel, limit: int) -> Tokens | InputError:
    """Token ids as they were sent, or why they are refused: never decoded and encoded again."""
    rows = model.manifest.architecture.vocab_size
    if len(ids) > limit:
        return InputTooLongError(tokens=len(ids), limit=limit, index=index)
    if not ids or any(type(i) is not int or not 0 <= i < rows for i in ids):
        return InputError(f"expected token ids from 0 to {rows - 1}", index=index, got="other ids")
    return Tokens(np.array(ids, np.int64), False)


def prompt_of(model: EmbeddingModel, name: str | None, field: str) -> str:
    """A prompt of the model, by default its default one. Raises Refusal, naming those there are."""
    try:
        return model.prompt(name)
    except ConfigError as error:
        raise Refusal("unknown_prompt", f"{field}: {error}", param=field) from None


def check_dimensions(
    x: Exchange,
    model: EmbeddingModel,
    dimensions: int | None,
    *,
    name: str = "dimensions",
    zero_is_all: bool = False,
) -> int:
    """How many values to keep. Raises Refusal outside 1..H; warns below what the model was trained for."""
    if dimensions is None or (zero_is_all and dimensions == 0):
        return model.dim
    if not 1 <= dimensions <= model.dim:
        raise Refusal(
            "invalid_dimensions",
            f"{name} is {str(dimensions)[:20]}; expected an integer from 1 to {model.dim}",
            param=name,
        )
    if dimensions < model.manifest.smallest_dim:
        x.warnings.append(
            f"{name}={dimensions} is below {model.manifest.smallest_dim}, the shortest the model was trained for"
        )
    return dimensions


def tokenizing_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="gte-tokenize")
