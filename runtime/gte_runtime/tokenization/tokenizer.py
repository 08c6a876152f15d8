"""A tokenizer.json with our rules around it."""

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
from ..errors import BundleError, InputTooLongError

if TYPE_CHECKING:
    from ..format.manifest import TokenizerRecord
    from .prefix import Prefixes

CHARACTERS_PER_TOKEN = 6
"""A text of no more than this many characters for each token of the limit is tokenized whole."""
FIRST_GUESS = 3
"""Characters per token of a prefix, at first. Chinese needs 1.5, English 4.5."""
ATTEMPTS = 2
"""Prefixes tried before the whole text is tokenized. What two did not prove, such as how a run of one letter
is divided, mostly depends on the very end of the text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, special tokens included."""

    ids: Int64
    truncated: bool


OF_NO_SCRIPT = "\U0010fffd"
"""A character that no vocabulary has, so that the unknown token must stand for it."""


class Tokenizer:
    """Texts to ids and back. Safe to use from several threads."""

    def __init__(
        self, data: bytes, record: TokenizerRecord | None = None, *, encode_special_tokens: bool = False
    ) -> None:
        """Load tokenizer.json.

        Args:
            data: the file's bytes.
            record: what a manifest says about it; read from the file again where absent.
            encode_special_tokens: read `</s>` and the like inside a text as plain characters, for
                untrusted input. False is the reference behaviour: they become special ids.

        Raises:
            BundleError: the file is not one that the tokenizers library reads, or it fails on a first text.
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
        """Special tokens around every text."""
        return len(self.prefix) + len(self.suffix)

    def check_ids(self, rows: int) -> None:
        """Raises BundleError when some id has no row in an embedding table of this height, or a character no token at all."""
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        largest = max(largest, *self._added, 0)
        if largest >= rows:
            raise BundleError(
                f"tokenizer.json has id {largest}, the embedding table has {rows} rows; they do not belong together"
            )
        self.encode([OF_NO_SCRIPT], max_length=self.specials + 8)

    def encode(
        self, texts: Sequence[str], *, max_length: int, truncate: bool = True, first_index: int = 0
    ) -> list[Tokens]:
        """Tokenize texts that `check_text` accepted.

        Args:
            max_length: the limit in tokens, special tokens included.
            truncate: cut what is longer; otherwise raise.
            first_index: the position of texts[0] in what the user gave, for errors.

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
        """Special ids before, between and after the two texts of a pair.

        Raises:
            BundleError: the file's post-processor knows no pairs.
        """
        with _mapped_panics():
            return _pair_template(self._tokenizer)

    @property
    def pair_specials(self) -> int:
        return sum(map(len, self.pair_template))

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncate: bool = True,
        first_index: int = 0,
    ) -> list[Tokens]:
        """Tokenize pairs of checked texts. What is over the limit is cut from the longer text, as the reference does.

        A text that stands in many pairs, such as the query, is tokenized once.

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
            # A beginning of more than `room` tokens counts as longer than any text that was tokenized whole.
            a, b = longest_first(
                len(first) if first_whole else sys.maxsize, len(second) if second_whole else sys.maxsize, room
            )
            out.append(
                Tokens(np.array([*before, *first[:a], *between, *second[:b], *after], np.int64), count > room)
            )
        return out

    def decode(self, token: int) -> str:
        """The text of one id, as the model's authors key their token weights: U+2581 is dropped."""
        if token not in self._decoded:
            self._decoded[token] = self._tokenizer.decode([token], skip_special_tokens=False).strip(HIDDEN)
        return self._decoded[token]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of a text's tokens, without special ones around it; places are in characters."""
        with _mapped_panics():
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            return [(token, *span) for token, span in zip(encoding.ids, encoding.offsets, strict=True)]

    def join(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of a row of ids."""
        with _mapped_panics():
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
            return text

    def _bodies(self, texts: Sequence[str], room: int) -> Iterator[tuple[list[int], bool]]:
        """(ids without specials, whether they are all) of each text; of a long one the beginning, more than `room`."""
        long = room * CHARACTERS_PER_TOKEN
        with _mapped_panics():
            short = iter(
                self._tokenizer.encode_batch([t for t in texts if len(t) <= long], add_special_tokens=False)
            )
            for text in texts:
                yield (next(short).ids, True) if len(text) <= long else self._long_body(text, room)

    def _long_body(self, text: str, room: int) -> tuple[list[int], bool]:
        size = (room + 1) * FIRST_GUESS
        for _ in range(ATTEMPTS):
            head = self._prefixes.shorten(text[: 8 * size])
            if len(head) <= size + self._prefixes.margin:
                break
            ids = self._prefixes.proven(head, size, room)
            if len(ids) > room:
                return ids, False
            # As much as the tokens so far suggest, at least four times as much.
            size = max(4 * size, size * (room + 1) * 5 // (4 * max(1, len(ids))))
        return self._tokenizer.encode(self._prefixes.shorten(text), add_special_tokens=False).ids, True

    @cached_property
    def _prefixes(self) -> Prefixes:
        from .prefix import Prefixes

        return Prefixes(self._tokenizer, self.record, [token.content for token in self._added.values()])


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair are kept: as if the longer one lost its last until both fit.

    Where both are over half the room, the token left over by an odd room goes to the longer, of equals to the second.
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if min(first, second) > half:
        return (room - half, half) if first > second else (half, room - half)
    return (first, room - first) if first <= second else (room - second, second)


HIDDEN = "\x00 "
"""Put before the name of a special piece that texts must not reach: no word holds a space."""


def _without_specials(data: bytes) -> bytes:
    """The same tokenizer, in which no text leads to a special token.

    The library's own switch is not enough: a Unigram vocabulary holds `</s>` as a piece of score 0, better than
    any other. So special pieces get names that no word can have; their ids and all scores stay.
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

    _load(data)  # what the library refuses is not looked into
    with _mapped_panics():
        return read_facts(json.loads(data))


def _load(data: bytes) -> Any:
    import tokenizers

    with _mapped_panics("cannot be read"):
        return tokenizers.Tokenizer.from_str(data.decode("utf-8"))


def _template(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special ids before and after a single text, found by encoding one."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    raise BundleError("tokenizer.json: the special tokens around a text could not be found")


def _pair_template(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Found by encoding a pair: two texts that have the same tokens show where each stands."""
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
    """The library panics outside Exception: on a bad charsmap, for example, as late as at the first text."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, BundleError):
        raise
    except BaseException as error:  # noqa: BLE001 - a PanicException is no Exception
        raise BundleError(f"tokenizer.json: {what}: {str(error)[:120]}") from None
