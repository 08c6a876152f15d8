"""Tokenizes texts and pairs with a checkpoint's tokenizer.json, and decodes ids."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Int64
from ..errors import BundleError, GteError, InputTooLongError, NoThread
from ..machine.native import Guarded, native

if TYPE_CHECKING:
    from ..format.manifest import TokenizerRecord
    from .prefix import Prefixes

CHARACTERS_PER_TOKEN = 6
"""A text of at most this many characters per token of the limit is tokenized whole."""
FIRST_GUESS = 3
"""Characters per token in the first prefix of a long text. Chinese has 1.5, English 4.5."""
ATTEMPTS = 2
"""Prefixes that are tried before the whole text is tokenized. Tokens that two prefixes did not prove, such as
those of a run of one letter, mostly depend on the very end of the text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text or pair, special tokens included: `ids` int64 [n]."""

    ids: Int64
    truncated: bool
    """Tokens were cut off to keep the limit."""


UNKNOWN_CHARACTER = "\U0010fffd"
"""A private-use character that no vocabulary has, so it must become the unknown token."""


class Tokenizer:
    """From texts to ids and back. Safe to use from several threads."""

    def __init__(
        self, data: bytes, record: TokenizerRecord | None = None, *, encode_special_tokens: bool = False
    ) -> None:
        """Load tokenizer.json.

        Args:
            data: the file's bytes.
            record: what a manifest records about it; None to read it from the file.
            encode_special_tokens: tokenize `</s>` and the like inside a text as ordinary characters, for
                untrusted input. False is the reference behaviour: they become special tokens.

        Raises:
            BundleError: the tokenizers library cannot read the file, or fails on a first text.
        """
        self.record = record or _read_record(data)
        self._tokenizer = _load(_without_specials(data) if encode_special_tokens else data)
        with _mapped_panics():
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
            self.prefix, self.suffix = _template(self._tokenizer)
        self._decoded: dict[int, str] = {}

    @property
    def specials(self) -> int:
        """The number of special tokens around every text."""
        return len(self.prefix) + len(self.suffix)

    def check_ids(self, rows: int) -> None:
        """Check that the tokenizer fits an embedding table, and that it has an unknown token.

        Args:
            rows: the number of rows of the table.

        Raises:
            BundleError: an id has no row, or a character that the vocabulary lacks cannot be tokenized.
        """
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        largest = max(largest, *self._added, 0)
        if largest >= rows:
            raise BundleError(
                f"tokenizer.json has id {largest}, the embedding table has {rows} rows; "
                "they do not belong together"
            )
        self.encode([UNKNOWN_CHARACTER], max_length=self.specials + 8)

    def encode(
        self, texts: Sequence[str], *, max_length: int, truncate: bool = True, first_index: int = 0
    ) -> list[Tokens]:
        """Tokenize texts, which `check_text` must have accepted.

        Args:
            texts: the texts.
            max_length: the limit in tokens, special tokens included.
            truncate: cut longer texts at the end; otherwise raise.
            first_index: the position of texts[0] in the caller's input, for errors.

        Raises:
            InputTooLongError: a text over the limit with truncate=False.
        """
        room = max_length - self.specials
        out = []
        for index, (ids, whole) in enumerate(self._bodies(texts, room)):
            if len(ids) > room and not truncate:
                count = len(ids) + self.specials
                raise InputTooLongError(
                    tokens=count, limit=max_length, index=first_index + index, exact=whole
                )
            out.append(Tokens(np.array([*self.prefix, *ids[:room], *self.suffix], np.int64), len(ids) > room))
        return out

    @cached_property
    def pair_template(self) -> tuple[list[int], list[int], list[int]]:
        """The special ids before, between and after the two texts of a pair.

        Raises:
            BundleError: the file has no special tokens for pairs.
        """
        with _mapped_panics():
            return _pair_template(self._tokenizer)

    @property
    def pair_specials(self) -> int:
        """The number of special tokens around the texts of every pair."""
        return sum(map(len, self.pair_template))

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncate: bool = True,
        first_index: int = 0,
    ) -> list[Tokens]:
        """Tokenize pairs of texts, which `check_pair` must have accepted.

        A pair over the limit is cut at the end of the longer text, as `longest_first` says. A text that is in
        several pairs, such as a query, is tokenized once.

        Args:
            pairs: the pairs.
            max_length: the limit in tokens, special tokens included.
            truncate: cut longer pairs; otherwise raise.
            first_index: the position of pairs[0] in the caller's input, for errors.

        Raises:
            InputTooLongError: a pair over the limit with truncate=False.
        """
        before, between, after = self.pair_template
        room = max_length - self.pair_specials
        unique = list(dict.fromkeys(text for pair in pairs for text in pair))
        bodies = dict(zip(unique, self._bodies(unique, room), strict=True))
        out = []
        for index, pair in enumerate(pairs):
            (first, first_whole), (second, second_whole) = bodies[pair[0]], bodies[pair[1]]
            count = len(first) + len(second)
            if count > room and not truncate:
                exact = first_whole and second_whole
                raise InputTooLongError(
                    tokens=count + self.pair_specials,
                    limit=max_length,
                    index=first_index + index,
                    exact=exact,
                    field="pairs",
                )
            # A text of which only a prefix was tokenized is longer than any that was tokenized whole.
            a, b = longest_first(
                len(first) if first_whole else sys.maxsize, len(second) if second_whole else sys.maxsize, room
            )
            out.append(
                Tokens(np.array([*before, *first[:a], *between, *second[:b], *after], np.int64), count > room)
            )
        return out

    def decode(self, token: int) -> str:
        """The text of one id, as in the token weights that the model's authors publish: without U+2581."""
        if token not in self._decoded:
            self._decoded[token] = self._tokenizer.decode([token], skip_special_tokens=False).strip(HIDDEN)
        return self._decoded[token]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of each token, in characters, without special tokens around the text."""
        with _mapped_panics():
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            return [(token, *span) for token, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def join(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of a sequence of ids."""
        with _mapped_panics():
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
            return text

    def _bodies(self, texts: Sequence[str], room: int) -> Iterator[tuple[list[int], bool]]:
        """For each text its ids without special tokens, and whether they are all of its ids.

        For a long text they may be the first ones only, but more than `room`.
        """
        long = room * CHARACTERS_PER_TOKEN
        with _mapped_panics():
            short = iter(
                self._tokenizer.encode_batch([t for t in texts if len(t) <= long], add_special_tokens=False)
            )
            for text in texts:
                yield (next(short).ids, True) if len(text) <= long else self._long_body(text, room)

    def _long_body(self, text: str, room: int) -> tuple[list[int], bool]:
        """As `_bodies`, for one long text, of which a prefix is tried first."""
        size = (room + 1) * FIRST_GUESS
        for _ in range(ATTEMPTS):
            head = self._prefixes.shorten(text[: 8 * size])
            if len(head) <= size + self._prefixes.margin:
                break
            ids = self._prefixes.proven(head, size, room)
            if len(ids) > room:
                return ids, False
            # Enough for `room` at the present characters per token and a quarter more; at least 4 times as
            # much.
            size = max(4 * size, size * (room + 1) * 5 // (4 * max(1, len(ids))))
        return self._tokenizer.encode(self._prefixes.shorten(text), add_special_tokens=False).ids, True

    @cached_property
    def _prefixes(self) -> Prefixes:
        from .prefix import Prefixes

        return Prefixes(self._tokenizer, self.record, [token.content for token in self._added.values()])


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair are kept so that both fit into `room`.

    As the strategy `longest_first` of the tokenizers library: as if the longer text lost its last token until
    both fit. Where both have more than half of an odd room, the longer one, or the second of equals, gets the
    odd token.
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if min(first, second) > half:
        return (room - half, half) if first > second else (half, room - half)
    return (first, room - first) if first <= second else (room - second, second)


HIDDEN = "\x00 "
"""Put before the names of special pieces, so that no text matches them: a word contains no space."""


def _without_specials(data: bytes) -> bytes:
    """A tokenizer.json with the same ids and scores, in which no text becomes a special token.

    The library's own switch, `encode_special_tokens`, is not enough for Unigram: there `</s>` is also an
    ordinary piece of the vocabulary, with score 0, the highest, so the characters `</s>` would still become
    the special token. So the special pieces are renamed to strings that no word can contain.
    """
    with _mapped_panics():
        raw = json.loads(data)
        special = {token["content"] for token in raw.get("added_tokens") or [] if token["special"]}
        raw["added_tokens"] = [token for token in raw.get("added_tokens") or [] if not token["special"]]
        vocabulary = raw["model"]["vocab"]
        if isinstance(vocabulary, list):
            raw["model"]["vocab"] = [
                [HIDDEN + piece if piece in special else piece, score] for piece, score in vocabulary
            ]
        return json.dumps(raw, ensure_ascii=False).encode()


def _read_record(data: bytes) -> TokenizerRecord:
    from .facts import read_facts

    _load(data)  # refuses a malformed file, so that `read_facts` need not check it
    with _mapped_panics():
        return read_facts(json.loads(data))


def _load(data: bytes) -> Any:
    import tokenizers

    with _mapped_panics("cannot be read"), native():
        return Guarded(tokenizers.Tokenizer.from_str(data.decode("utf-8")))


def _template(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special ids before and after a text, found by encoding one."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise BundleError("tokenizer.json: the special tokens around a text could not be found")


def _pair_template(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """As `_template`, for a pair: of two equal texts, whose ids are then found twice."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", "a", add_special_tokens=True).ids
    size = len(bare)
    places = [start for start in range(len(full) - size + 1) if full[start : start + size] == bare]
    single, _ = _template(tokenizer)
    if len(places) != 2 or full[: places[0]] != single or len(full) == 2 * size:
        raise BundleError("tokenizer.json has no special tokens for pairs of texts, which a reranker needs")
    first, second = places
    return full[:first], full[first + size : second], full[second + size :]


@contextlib.contextmanager
def _mapped_panics(what: str = "the tokenizer failed") -> Iterator[None]:
    """Turn a panic of the tokenizers library into a BundleError.

    A panic is no Exception, and some come only with the first text, such as that for a broken charsmap. Every
    other BaseException, which a signal may raise, is left as it is.
    """
    try:
        yield
    except GteError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "ThreadPoolBuildError" in str(error):
            raise NoThread("the tokenizer needs threads") from None
        raise BundleError(f"tokenizer.json: {what}: {str(error)[:120]}") from None
