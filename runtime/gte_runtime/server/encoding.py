"""From a request's texts to the model's results: checks, tokens, the queue, errors that name the text."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from .. import scoring
from ..arrays import Float32
from ..errors import BundleError, ConfigError, GteError, InputError, InputTooLongError
from ..inference.engine import State
from ..tokenization import Tokens, encode_each
from .exchange import Exchange
from .models import EmbeddingModel, ServedModel
from .refusals import Refusal, refusal_of

log = logging.getLogger("gte_runtime.server")

M = TypeVar("M", bound=ServedModel)

FEW_CHARACTERS = 2048
"""Up to so many characters, tokenizing takes less time than handing the texts to a thread."""

AT_ONCE = 65_536
"""Characters that are tokenized in one call, unless one text has more: it takes some 0.1 seconds."""

STATE_BYTES = 16
"""Memory for one value of a token's state until its answer is sent: 4 bytes as float32, some 11 in JSON."""

Place = Callable[[int | None], str]
"""The name of a text in the request, such as `input[3]`, or of its list."""


@dataclass(slots=True)
class Encoded(Generic[M]):
    """Tokens and results of N texts, in input order."""

    model: M
    tokens: list[Tokens]
    states: list[State]
    index: list[int]
    """Position of each text in the request."""
    errors: dict[int, Refusal] = field(default_factory=dict)
    """By position, the texts without a result, where a request accepts that."""

    @property
    def token_count(self) -> int:
        return sum(len(t.ids) for t in self.tokens)

    @property
    def truncated(self) -> int:
        """How many texts were cut."""
        return sum(t.truncated for t in self.tokens)

    def dense(self, dim: int | None = None, normalise: bool = True) -> Float32:
        """Dense vectors cut to `dim`, then L2-normalised: float32 [N, dim]."""
        if not self.states:
            return np.zeros((0, dim or self.model.engine.width), np.float32)
        cls = np.stack([state.cls for state in self.states])
        return scoring.cut(cls, dim, normalise)


def named(name: str) -> Place:
    """Names for the texts of a field that holds one text or a list of them."""
    return lambda index: name if index is None else f"{name}[{index}]"


def as_list(
    value: object, x: Exchange, place: Place, limit: int, flag: str, *, one_by_one: bool = False
) -> tuple[list[Any], Place]:
    """The texts of a field as a list, and their names. A flat list of integers is one text, as token ids.

    Args:
        value: one text or many, each a string, an object that holds one, or a list of token ids.
        x: the request.
        place: names the texts.
        limit: texts at most.
        flag: the option that sets the limit.
        one_by_one: an item that is no text becomes a Refusal, for `encode`; otherwise it is raised.

    Raises:
        Refusal: no texts, too many, an empty text, or token ids where they are not accepted.
    """
    if isinstance(value, list):
        items = value
        if items and all(type(item) is int for item in items):
            items, place = [items], _alone(place)
    else:
        items, place = [value], _alone(place)
    if not items:
        raise Refusal("empty_input", f"{place(None)} is empty; send at least one text", param=place(None))
    if len(items) > limit:
        raise Refusal(
            "too_many_inputs",
            f"{place(None)} has {len(items)} texts, the limit is {limit} ({flag})",
            param=place(None),
        )
    texts: list[Any] = []
    for index, item in enumerate(items):
        try:
            texts.append(item if type(item) is str and item else _text(item, x, place(index)))
        except Refusal as refusal:
            if not one_by_one:
                raise
            texts.append(refusal)
    return texts, place


def _alone(place: Place) -> Place:
    return lambda index: place(None)


def _text(item: object, x: Exchange, where: str) -> str | list[Any]:
    """A text, or token ids. Raises Refusal."""
    if isinstance(item, list):
        return _check_ids(item, x, where)
    text = text_of(item, where)
    if text == "" and not x.server.options.allow_empty:
        raise Refusal("empty_input", f"{where} is an empty string; leave it out", param=where)
    return text


def text_of(item: object, where: str) -> str:
    """A text: a string, or an object that holds one, as Jina, llama.cpp, Cohere and vLLM have them.

    {"text": ...}, {"prompt_string": ...}, or {"content": [{"type": "text", "text": ...}, ...]}, whose parts
    are put together. Raises Refusal.
    """
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        for name in ("text", "prompt_string"):
            if isinstance(item.get(name), str):
                return str(item[name])
        if isinstance(item.get("content"), list):
            parts = [
                part.get("text")
                if isinstance(part, dict) and part.get("type") in ("text", "input_text")
                else None
                for part in item["content"]
            ]
            if parts and all(isinstance(part, str) for part in parts):
                return "".join(map(str, parts))
    what = "an object without a text" if isinstance(item, dict) else _word(item)
    raise Refusal("invalid_type", f"{where}: expected a string, found {what}", param=where)


def _word(item: object) -> str:
    return {"NoneType": "null", "dict": "an object", "list": "an array"}.get(
        type(item).__name__, type(item).__name__
    )


def _check_ids(item: list[Any], x: Exchange, where: str) -> list[Any]:
    for index, each in enumerate(item):
        if type(each) is not int:
            where = f"{where}[{index}]"
            raise Refusal("invalid_type", f"{where}: expected a token id, found {_word(each)}", param=where)
    if not x.server.options.accept_token_ids:
        hint = (
            "send the text (LangChain: check_embedding_ctx_length=False);"
            " a server started with --accept-token-ids takes its own ids"
        )
        raise Refusal(
            "invalid_type",
            f"{where}: token ids are not accepted, they belong to one tokenizer; {hint}",
            param=where,
        )
    return item


async def encode(
    x: Exchange,
    model: M,
    texts: Sequence[Any],
    place: Place,
    *,
    max_length: int | None = None,
    limit_name: str = "max_length",
    truncate: bool = True,
    left: bool = False,
    most_of_each: tuple[int | None, int | None] = (None, None),
    one_by_one: bool = False,
    per_token: bool = False,
    prompt: str = "",
) -> Encoded[M]:
    """Tokenize texts and run them.

    Args:
        x: the request.
        model: runs the texts.
        texts: strings, lists of token ids, or pairs of strings for a reranker; where they are answered one by
            one, also refusals, in the place of what is no text.
        place: names the texts in errors.
        max_length: the limit of a text in tokens; None is the model's.
        limit_name: the field of the request that set it.
        truncate: cut what is longer; otherwise refuse it.
        left: cut at the beginning instead of at the end.
        most_of_each: tokens at most of the first and of the second text of every pair.
        one_by_one: a text that fails gets an entry in `errors`; otherwise it fails the request.
        per_token: the answer will hold a vector per token, so the tokens of the request are limited further.
        prompt: put before every text.

    Raises:
        Refusal: naming the text.
        Disconnected: the client disconnected.
    """
    x.model = model
    server, timeout = x.server, x.timeout()
    begun = time.monotonic()
    # Refused before any work when there is no room even for the shortest text.
    if server.scheduler.held >= server.options.max_queue_tokens:
        raise server.dispatcher.overloaded()
    try:
        max_length = model.length_limit(max_length)
    except ConfigError as error:
        message = str(error).replace("max_length", limit_name, 1)
        raise Refusal("invalid_value", message, param=limit_name) from None
    asked_for = len(texts)
    errors = {i: text for i, text in enumerate(texts) if isinstance(text, Refusal)}
    position = [i for i in range(asked_for) if i not in errors]
    texts = [texts[i] for i in position] if errors else texts
    if prompt:
        texts = [prompt + text if isinstance(text, str) else text for text in texts]
    work = partial(_tokenize, model, max_length, truncate, left, most_of_each, {})
    x.characters = sum(sum(map(len, text)) if isinstance(text, tuple) else len(text) for text in texts)
    tokenized: list[Tokens | InputError] = []
    if x.characters <= FEW_CHARACTERS:
        tokenized = work(texts)
    else:
        count, most = 0, _most_tokens(x, per_token)[0]
        for part in _parts(texts):
            found = await x.in_thread(work, part)
            tokenized += found
            count += sum(len(t.ids) for t in found if isinstance(t, Tokens))
            if count > most or (not one_by_one and any(isinstance(t, InputError) for t in found)):
                break  # it is refused below
    x.times["tokenization"] = time.monotonic() - begun
    server.metrics.tokenize_seconds.observe(x.times["tokenization"])
    for i, found_one in zip(position, tokenized, strict=False):
        if isinstance(found_one, InputError):
            errors[i] = refusal_of(found_one, place(i))
    if errors and not one_by_one:
        raise next(iter(errors.values()))
    index = [i for i, t in zip(position, tokenized, strict=False) if isinstance(t, Tokens)]
    tokens = [t for t in tokenized if isinstance(t, Tokens)]
    out = Encoded(model, tokens, [], index, errors)
    _check_count(x, out.token_count, place(None), per_token)
    x.texts, x.tokens, x.truncated = (
        x.texts + asked_for,
        x.tokens + out.token_count,
        x.truncated + out.truncated,
    )
    server.metrics.truncated.inc(out.truncated)
    if not tokens:
        return out
    if per_token:
        x.hold_answer(out.token_count * model.manifest.architecture.hidden_size * STATE_BYTES)
    if timeout is not None:
        timeout -= time.monotonic() - begun
    done = await x.unless_disconnected(server.dispatcher.run(model, tokens, timeout))
    x.times["queue"], x.times["inference"] = done.queued, done.running
    good: list[int] = []
    for row, answer in enumerate(done.answers):
        if not isinstance(answer, BaseException):
            out.states.append(answer)
            good.append(row)
            continue
        errors[index[row]] = _refusal_of_run(answer, place(index[row]))
        if not one_by_one:
            raise errors[index[row]]
    out.tokens, out.index = [tokens[row] for row in good], [index[row] for row in good]
    return out


def _check_count(x: Exchange, count: int, where: str, per_token: bool) -> None:
    most, flag = _most_tokens(x, per_token)
    if count > most:
        raise Refusal(
            "request_too_large",
            f"{where} has {count} tokens or more, the limit is {most} ({flag}); split it",
            param=where,
        )


def _most_tokens(x: Exchange, per_token: bool) -> tuple[int, str]:
    """The limit of a request's tokens, and the option that sets it."""
    options = x.server.options
    if per_token:
        return options.max_token_vectors, "--max-token-vectors"
    return options.max_request_tokens, "--max-request-tokens"


def _parts(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Texts that are tokenized in one call. The texts of other requests come between two calls."""
    start = size = 0
    for index, text in enumerate(texts):
        length = len(text[-1] if isinstance(text, tuple) else text)
        if index > start and size + length > AT_ONCE:
            yield texts[start:index]
            start, size = index, 0
        size += length
    yield texts[start:]


def _refusal_of_run(error: BaseException, place: str) -> Refusal:
    """An error of a run as a refusal. What is not the text's fault goes to the log."""
    if isinstance(error, GteError):
        refusal = refusal_of(error, place)
        if refusal.code == "internal" or isinstance(error, BundleError):
            log.error(
                "run failed",
                extra={"fields": {"error": type(error).__name__, "reason": str(error)[:300]}},
            )
        return refusal
    log.error("run failed", exc_info=error)
    return Refusal("internal", "the model could not be run; the server's log says more")


def _tokenize(
    model: ServedModel,
    max_length: int,
    truncate: bool,
    left: bool,
    most_of_each: tuple[int | None, int | None],
    known: dict[str, Any],
    texts: Sequence[Any],
) -> list[Tokens | InputError]:
    """The tokens of each text, or the reason why it is refused. Lists are token ids already."""

    def encode(part: Sequence[Any], first: int) -> list[Tokens]:
        return model.tokenize(
            part, max_length=max_length, truncate=truncate, left=left, most_of_each=most_of_each, known=known
        )

    plain = iter(encode_each(encode, [text for text in texts if not isinstance(text, list)]))
    return [
        _verbatim(text, index, model, max_length, truncate, left) if isinstance(text, list) else next(plain)
        for index, text in enumerate(texts)
    ]


def _verbatim(
    ids: Sequence[object], index: int, model: ServedModel, limit: int, truncate: bool, left: bool
) -> Tokens | InputError:
    """Token ids as they were sent, never decoded and encoded again; or the reason why they are refused."""
    rows = model.manifest.architecture.vocab_size
    if not ids or any(type(i) is not int or not 0 <= i < rows for i in ids):
        return InputError(
            f"expected token ids from 0 to {rows - 1}; others are out of vocabulary",
            index=index,
            got="other ids",
        )
    long = len(ids) > limit
    if long and not truncate:
        return InputTooLongError(tokens=len(ids), limit=limit, index=index)
    kept = ids[len(ids) - limit :] if long and left else ids[:limit]
    return Tokens(np.array(kept, np.int64), long)


def prompt_of(model: EmbeddingModel, name: str | None, field: str) -> str:
    """The text of a prompt; None is the model's default prompt. Raises Refusal, which lists the prompts."""
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
    """How many values of a vector to keep; None is what the checkpoint says, mostly all. Warns below what the
    model was trained for.

    Raises:
        Refusal: outside 1 to the model's width.
    """
    if dimensions is None:
        return model.manifest.truncate_dim or model.dim
    if zero_is_all and dimensions == 0:
        return model.dim
    if not 1 <= dimensions <= model.dim:
        raise Refusal(
            "invalid_dimensions",
            f"{name} is {str(dimensions)[:20]}; expected an integer from 1 to {model.dim}",
            param=name,
        )
    if dimensions < model.manifest.smallest_dim:
        smallest = model.manifest.smallest_dim
        x.warnings.append(f"{name}={dimensions} is below {smallest}, the shortest the model was trained for")
    return dimensions
