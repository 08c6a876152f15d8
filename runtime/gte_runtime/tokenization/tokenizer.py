"""Tokenizes texts and pairs with a checkpoint's tokenizer.json, and decodes ids."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Int64
from ..errors import BundleError, GteError, InputTooLongError, NoThread
from ..format.values import parse_json
from ..machine.native import Guarded, native
from .form import EXACT, LARGEST_GROWTH, NFC, Form, Notice, choose_form, composed
from .form import places as places_before_composing
from .prefix import Prefixes, ids_of, spans_of

if TYPE_CHECKING:
    from ..format.manifest import TokenizerRecord

CHARACTERS_PER_TOKEN = 6
"""A text of at most this many characters per token of the limit is tokenized whole."""
FIRST_GUESS = 3
"""Characters per token in the first prefix of a long text. Chinese has 1.5, English 4.5."""
ATTEMPTS = 2
"""Prefixes that are tried before the whole text is tokenized. Tokens that two prefixes did not prove, such as
those of a run of one letter, mostly depend on the very end of the text."""
LONGEST_PIECE = 65_536
"""Characters that are tokenized at once, long runs of spaces not counted: 8 for each of 8192 tokens. A longer
text in which no place to cut is found, such as one letter with a million accents, ends here. Memory is up to
2 kB for a character, where normalisation makes it 18."""
LONGEST = 4 * LONGEST_PIECE
"""Characters, counted in the same way, that are tokenized of any text. It ends here, even if they are fewer
tokens than the limit: that takes more than 32 characters for each of 8192 tokens."""
AT_ONCE = 2**20
"""Characters of short texts that are tokenized at once. Memory is 100 bytes for most of them."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text or pair, special tokens included: `ids` int64 [n]."""

    ids: Int64
    truncated: bool
    """Tokens were cut off to keep the limit."""


@dataclass(frozen=True, slots=True)
class _Body:
    """The ids of one text without special tokens."""

    ids: Int64
    """The first ones, or the last ones of a text that is cut at its beginning; at most one more than fit."""
    count: int
    """How many there are; the number that was tokenized, where `whole` is false."""
    whole: bool
    pieces: Sequence[tuple[int, str]] = ()
    """What was tokenized of a long text after `Prefixes.shorten`, and where it begins."""


PADDING = ("<pad>", "[PAD]")
UNKNOWN_CHARACTER = "\U0010fffd"
"""A private-use character that no vocabulary has, so it must become the unknown token."""


class Tokenizer:
    """From texts to ids and back. Safe to use from several threads."""

    def __init__(
        self,
        data: bytes,
        record: TokenizerRecord | None = None,
        *,
        encode_special_tokens: bool = False,
        unicode: Form = EXACT,
    ) -> None:
        """Load tokenizer.json.

        Args:
            data: the file's bytes.
            record: what a manifest records about it; None to read it from the file.
            encode_special_tokens: tokenize `</s>` and the like inside a text as ordinary characters, for
                untrusted input. False is the reference behaviour: they become special tokens.
            unicode: "NFC" composes every text first; "exact" tokenizes it as it is.

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
        self.unicode = unicode
        """How texts are read where a call does not say it."""
        self.notice = Notice(self._ids)
        """Sees the texts that are tokenized as they are."""

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
        self,
        texts: Sequence[str],
        *,
        max_length: int,
        truncate: bool = True,
        first_index: int = 0,
        left: bool = False,
        unicode: Form | None = None,
    ) -> list[Tokens]:
        """Tokenize texts, which `check_text` must have accepted.

        Args:
            texts: the texts.
            max_length: the limit in tokens, special tokens included.
            truncate: cut longer texts; otherwise raise.
            first_index: the position of texts[0] in the caller's input, for errors.
            left: cut at the beginning instead of at the end.
            unicode: "NFC" or "exact"; None is `self.unicode`.

        Raises:
            InputTooLongError: a text over the limit with truncate=False.
        """
        room = max_length - self.specials
        texts = self._in_form(texts, unicode, left)
        out = []
        for index, body in enumerate(self._bodies(texts, room, left)):
            long = body.count > room or not body.whole
            if long and not truncate:
                raise self._too_long([texts[index]], [body], max_length, self.specials, first_index + index)
            ids = body.ids[-room:] if left else body.ids[:room]
            out.append(Tokens(np.array([*self.prefix, *ids, *self.suffix], np.int64), long))
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
        known: dict[str, _Body] | None = None,
        unicode: Form | None = None,
        left: bool = False,
        most_of_each: tuple[int | None, int | None] = (None, None),
    ) -> list[Tokens]:
        """Tokenize pairs of texts, which `check_pair` must have accepted.

        A pair over the limit is cut at the end of the longer text, as `longest_first` says. A text that is in
        several pairs, such as a query, is tokenized once. A text over a limit of its own is cut before that,
        whatever `truncate` says, and counts as truncated.

        Args:
            pairs: the pairs.
            max_length: the limit in tokens, special tokens included.
            truncate: cut longer pairs; otherwise raise.
            first_index: the position of pairs[0] in the caller's input, for errors.
            known: what calls with the same `max_length` and `left` have left there, and what this one leaves
                for others.
            unicode: "NFC" or "exact"; None is `self.unicode`.
            left: cut texts at the beginning instead of at the end.
            most_of_each: tokens at most of the first and of the second text of every pair, without special
                tokens.

        Raises:
            InputTooLongError: a pair over the limit with truncate=False.
        """
        before, between, after = self.pair_template
        room = max_length - self.pair_specials
        bodies = {} if known is None else known
        unique = [t for t in dict.fromkeys(text for pair in pairs for text in pair) if t not in bodies]
        in_form = self._in_form(unique, unicode, left)
        bodies.update(zip(unique, self._bodies(in_form, room, left), strict=True))
        most = [sys.maxsize if each is None else each for each in most_of_each]
        out = []
        for index, pair in enumerate(pairs):
            if truncate and room % 2 and all(bodies[text].count > room // 2 for text in pair):
                # The longer one gets the odd token, so both have to be counted.
                for text in pair:
                    if not bodies[text].whole:
                        bodies[text] = self._counted(self._in_form([text], unicode)[0], bodies[text])
            first, second = bodies[pair[0]], bodies[pair[1]]
            # A text of which only a part was tokenized is longer than any that was tokenized whole.
            counts = [body.count if body.whole else sys.maxsize for body in (first, second)]
            wanted = [min(count, limit) for count, limit in zip(counts, most, strict=True)]
            a, b = longest_first(wanted[0], wanted[1], room)
            if sum(wanted) > room and not truncate:
                raise self._too_long(
                    pair, [first, second], max_length, self.pair_specials, first_index + index, "pairs"
                )
            kept = [*before, *_cut(first.ids, a, left), *between, *_cut(second.ids, b, left), *after]
            out.append(Tokens(np.array(kept, np.int64), [a, b] != counts))
        return out

    def _in_form(self, texts: Sequence[str], unicode: Form | None, left: bool = False) -> Sequence[str]:
        """The texts as they are tokenized. Of a very long one, its beginning or end: as much as is read."""
        if choose_form(unicode, self.unicode) != NFC:
            if unicode is None:
                self.notice.look(texts)
            return texts
        most = LARGEST_GROWTH * LONGEST
        return [
            composed(
                text
                if len(text) <= most
                else self._prefixes.shorten_from_the_end(text, most)
                if left
                else self._prefixes.shorten(text, most)
            )
            for text in texts
        ]

    def _ids(self, text: str) -> list[int]:
        with _mapped_panics():
            return ids_of(self._tokenizer, text)

    def _counted(self, text: str, body: _Body) -> _Body:
        """The body of a long text with the number of all its tokens, up to LONGEST characters."""
        with _mapped_panics():
            all_of_it = self._in_pieces(text, sys.maxsize)
        return replace(body, count=all_of_it.count, whole=all_of_it.whole)

    def _too_long(
        self,
        texts: Sequence[str],
        bodies: Sequence[_Body],
        limit: int,
        specials: int,
        index: int,
        field: str = "texts",
    ) -> InputTooLongError:
        count = sum(body.count for body in bodies) + specials
        if count > limit:
            exact = all(body.whole for body in bodies)
            return InputTooLongError(tokens=count, limit=limit, index=index, exact=exact, field=field)
        return InputTooLongError(
            tokens=count,
            limit=LONGEST_PIECE,
            index=index,
            field=field,
            characters=max(len(text) for text, body in zip(texts, bodies, strict=True) if not body.whole),
        )

    def decode(self, token: int) -> str:
        """The text of one id, as in the token weights that the model's authors publish: without U+2581."""
        if token not in self._decoded:
            self._decoded[token] = self._tokenizer.decode([token], skip_special_tokens=False).strip(HIDDEN)
        return self._decoded[token]

    def piece(self, token: int) -> str | None:
        """The vocabulary's piece of an id, such as "▁the"; None for an id without one."""
        found: str | None = self._tokenizer.id_to_token(token)
        return found

    def id_of(self, piece: str) -> int | None:
        """The id of a piece of the vocabulary; None for one that it has not."""
        found: int | None = self._tokenizer.token_to_id(piece)
        return found

    def vocabulary(self) -> dict[str, int]:
        """{piece: id}."""
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    @property
    def pad(self) -> int:
        """The id of the padding token; 0 where there is none, as no run reads it."""
        return next((i for name in PADDING if (i := self.id_of(name)) is not None), 0)

    def spans(self, text: str, room: int | None = None) -> list[tuple[int, int, int]]:
        """(id, start, end) of each token, in characters, without special tokens around the text.

        Args:
            text: the text. Where it is composed first, the places are still those in the text as it is.
            room: how many tokens are wanted, as `encode` gives them; None for all of them.

        Raises:
            InputTooLongError: all tokens are wanted of a text of more than LONGEST_PIECE characters.
        """
        if self.unicode == NFC and (other := composed(text)) != text:
            found = self._spans(other, room)
            before = places_before_composing(text, [(a, b) for _, a, b in found])
            return [(i, *place) for (i, _, _), place in zip(found, before, strict=True)]
        return self._spans(text, room)

    def _spans(self, text: str, room: int | None) -> list[tuple[int, int, int]]:
        if room is None and len(text) > LONGEST_PIECE:
            raise InputTooLongError(tokens=0, limit=LONGEST_PIECE, index=None, characters=len(text))
        with _mapped_panics():
            if room is not None and len(text) > room * CHARACTERS_PER_TOKEN:
                return self._spans_of_long(text, room)
            return spans_of(self._tokenizer, text, len(text) if room is None else room)

    def _spans_of_long(self, text: str, room: int) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for start, piece in self._long_body(text, room).pieces:
            spans = self._prefixes.spans(piece, start > 0, room - len(found))
            found += [(i, start + a, start + b) for i, a, b in spans]
        places = self._prefixes.places(text, [(a, b) for _, a, b in found])
        return [(i, *place) for (i, _, _), place in zip(found, places, strict=True)]

    def join(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of a sequence of ids."""
        with _mapped_panics():
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
            return text

    def _bodies(self, texts: Sequence[str], room: int, left: bool = False) -> Iterator[_Body]:
        """The ids of each text."""
        long = room * CHARACTERS_PER_TOKEN
        with _mapped_panics():
            short = self._short_bodies([text for text in texts if len(text) <= long], room, left)
            for text in texts:
                if len(text) <= long:
                    yield next(short)
                else:
                    yield self._long_end(text, room) if left else self._long_body(text, room)

    def _short_bodies(self, texts: Sequence[str], room: int, left: bool) -> Iterator[_Body]:
        """Of texts that are tokenized whole, some at a time, so that memory is bounded."""
        start = 0
        while start < len(texts):
            stop, size = start + 1, len(texts[start])
            while stop < len(texts) and size + len(texts[stop]) <= AT_ONCE:
                size += len(texts[stop])
                stop += 1
            for encoding in self._tokenizer.encode_batch_fast(texts[start:stop], add_special_tokens=False):
                ids = encoding.ids
                yield _body(ids[-room - 1 :] if left else ids[: room + 1], len(ids), True)
            start = stop

    def _long_body(self, text: str, room: int) -> _Body:
        """Of one long text, of which a prefix is tried first."""
        size = (room + 1) * FIRST_GUESS
        for _ in range(ATTEMPTS):
            head = self._prefixes.shorten(text[: 8 * size])
            if len(head) <= size + self._prefixes.margin:
                break
            ids, cut = self._prefixes.proven(head, size, room)
            if len(ids) > room:
                return _body(ids[: room + 1], len(ids), False, [(0, head[:cut])])
            # Enough for `room` at the present characters per token and a quarter more; at least 4 times as
            # much.
            size = max(4 * size, size * (room + 1) * 5 // (4 * max(1, len(ids))))
            size = min(size, LONGEST)
        return self._in_pieces(text, room)

    def _in_pieces(self, text: str, room: int) -> _Body:
        """As `_long_body`, piece by piece, up to the first that ends in the middle of a word."""
        text = self._prefixes.shorten(text, LONGEST)
        whole = len(text) <= LONGEST
        pieces: list[tuple[int, str]] = []
        ids: list[int] = []
        start: int | None = 0
        while start is not None and len(ids) <= room:
            stop = min(start + LONGEST_PIECE, len(text), LONGEST)
            cut = None
            if stop < len(text):
                cut = self._prefixes.last_word(text, start, stop)
                whole = whole and cut is not None
            pieces.append((start, text[start : cut or stop]))
            ids += self._prefixes.words(pieces[-1][1], follows=start > 0)
            start = cut
        whole = whole and start is None
        return _body(ids[: room + 1], len(ids), whole, pieces)

    def _long_end(self, text: str, room: int) -> _Body:
        """Of one long text, its last ids."""
        for size in (room * CHARACTERS_PER_TOKEN, LONGEST_PIECE, LONGEST):
            tail = self._prefixes.shorten_from_the_end(text, size)
            start = self._prefixes.first_word(tail[-size:], size // 4)
            if len(tail) <= size and (start is not None or size <= LONGEST_PIECE):
                ids = ids_of(self._tokenizer, tail)
                return _body(ids[-room - 1 :], len(ids), True)
            if start is not None:
                ids = self._prefixes.words(tail[-size:][start:], follows=True)
                if len(ids) > room or size > LONGEST_PIECE:
                    return _body(ids[-room - 1 :], len(ids), False)
        # Nothing proves that its first tokens are those of the whole text; they are cut off in most cases.
        tail = self._prefixes.shorten_from_the_end(text, LONGEST_PIECE)[-LONGEST_PIECE:]
        ids = ids_of(self._tokenizer, tail)
        return _body(ids[-room - 1 :], len(ids), False)

    @cached_property
    def _prefixes(self) -> Prefixes:
        return Prefixes(self._tokenizer, self.record, [token.content for token in self._added.values()])


def _body(ids: Sequence[int], count: int, whole: bool, pieces: Sequence[tuple[int, str]] = ()) -> _Body:
    return _Body(np.array(ids, np.int64), count, whole, pieces)


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


def _cut(ids: Int64, count: int, left: bool) -> Int64:
    """The first of so many ids, or the last."""
    return ids[max(0, len(ids) - count) :] if left else ids[:count]


HIDDEN = "\x00 "
"""Put before the names of special pieces, so that no text matches them: a word contains no space."""


def _without_specials(data: bytes) -> bytes:
    """A tokenizer.json with the same ids and scores, in which no text becomes a special token.

    The library's own switch, `encode_special_tokens`, is not enough for Unigram: there `</s>` is also an
    ordinary piece of the vocabulary, with score 0, the highest, so the characters `</s>` would still become
    the special token. So the special pieces are renamed to strings that no word can contain.
    """
    with _mapped_panics():
        raw = parse_json(data)
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
        return read_facts(parse_json(data))


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
            # The library tries only once in a process to start its threads, and panics ever after. From here
            # on it works without, for the host program, too.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            raise NoThread("the tokenizer needs more") from None
        raise BundleError(f"tokenizer.json: {what}: {str(error)[:120]}") from None
