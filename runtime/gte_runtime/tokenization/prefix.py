"""Tokenizes only the beginning of a long text, and keeps the tokens that it provably shares with the whole.

A million characters take half a second to tokenize, and at most 8192 of their tokens are used. So a prefix is
tokenized instead, and of its tokens those are kept that the rest of the text cannot change. Two arguments
show which those are:

1. A cut between words. The pre-tokenizer splits at spaces and drops them, and each word is tokenized by
   itself. A cut after a space and before a letter lies between two grapheme clusters, so both parts are
   normalised as in the whole text. All tokens of the prefix are kept.

2. A cut inside a very long word (Chinese, or "aaaa..."). A Unigram model splits a word into pieces along the
   path of the highest score, by dynamic programming from left to right: the best path to a position, ties
   included, depends only on what is before it. A piece has at most k characters, so among any k neighbouring
   positions there is one, p, where the best path of the whole word ends a piece; up to p it equals the best
   path of the word cut at p. So the pieces with which the best paths of all k cuts begin are pieces of the
   whole word. A run of unknown characters is one unknown token, whatever its length.

If neither applies, or too few tokens are kept, the caller tries a longer prefix, and finally the whole text,
or as much of it as may be tokenized at once.

The same for the end of a text, where its beginning is cut off: words do not depend on the words before them.
The second argument does not hold there, because ties are broken from left to right.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..format.manifest import TokenizerRecord

SPACES = re.compile(r"[ \t\r\n]{256,}")

SLICE = 2**20
"""Characters in which spaces are searched at a time: the search holds the interpreter's lock."""

SEARCHED = 2048
"""Characters before the wanted size of a prefix in which a place to cut is searched."""
CHARACTERS = 4
"""Characters for each wanted token in the beginning of a long word that is looked at first."""
WORDS = 16_384
"""Characters, and what is left of their last word, that are split into words at a time."""
SPARE = 64
"""Tokens beyond those needed: the last few of a cut word are usually not those of the whole word."""


@cache
def loners() -> str:
    """A character class of those that are a grapheme cluster by themselves and do not compose with the
    character before, in any normal form.

    A text is cut only before one of these: letters, ideographs, syllables and digits, never combining marks,
    vowel signs, joiners or modifiers. Of the letters these are left out:

    - U+0E33 and U+0EB3 extend the cluster before them, and U+0D4E the one after it (Unicode annex 29);
    - conjoining jamo, and what becomes a jamo or a mark when it is normalised, such as U+314F.
    """
    ranges = [[0x3400, 0x4DBF], [0x4E00, 0x9FFF], [0xAC00, 0xD7A3]]
    for code in (*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0xFFF0)):
        character = chr(code)
        if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo", "Nd"):
            continue
        first = unicodedata.normalize("NFKD", character)[0]
        jamo = "\u1100" <= first <= "\u11ff" or "\ua960" <= first <= "\ua97f"
        if jamo or unicodedata.category(first).startswith("M") or code in (0x0E33, 0x0EB3, 0x0D4E):
            continue
        if code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[0-9A-Za-z" + "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in ranges) + "]"


@cache
def between_words() -> re.Pattern[str]:
    return re.compile(rf"[ \t\r\n](?={loners()})")


@cache
def inside_word() -> re.Pattern[str]:
    return re.compile(rf"(?<={loners()})(?={loners()})")


class Prefixes:
    """Prefixes of texts for one tokenizer.

    Args:
        tokenizer: of the tokenizers library.
        record: what the manifest records about it.
        added: the contents of its added tokens.
    """

    def __init__(self, tokenizer: Any, record: TokenizerRecord, added: list[str]) -> None:
        self._tokenizer = tokenizer
        self._record = record
        self._added = re.compile("|".join(map(re.escape, added)) or r"(?!)")
        self.margin = max(map(len, added), default=0) + 1
        """Characters after a cut that are searched for added tokens, too."""

    def shorten(self, text: str, most: int | None = None) -> str:
        """The text with the same tokens in which long runs of spaces are two characters long.

        Spaces only separate words here and are no tokens. The first and the last character of a run stay,
        because an added token may be next to them. With `most`, it ends somewhere after so many characters.
        """
        most = len(text) if most is None else most
        if not self._record.splits_on_whitespace:
            return text[: most + 1]
        parts, size = [], 0
        for start in range(0, len(text), SLICE):
            parts.append(SPACES.sub(_ends, text[start : start + SLICE]))
            size += len(parts[-1])
            if size > most:
                break
        return "".join(parts)

    def shorten_from_the_end(self, text: str, most: int) -> str:
        """As `shorten`, for the last characters of a text."""
        if not self._record.splits_on_whitespace:
            return text[-most - 1 :]
        parts, size, stop = [], 0, len(text)
        while stop > 0 and size <= most:
            parts.append(SPACES.sub(_ends, text[max(0, stop - SLICE) : stop]))
            size += len(parts[-1])
            stop -= SLICE
        return "".join(reversed(parts))

    def places(self, text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Spans of characters in `shorten(text)` as spans in the text."""
        if not self._record.splits_on_whitespace or not spans:
            return spans
        starts, removed = [0], [0]
        for start in range(0, len(text), SLICE):
            if starts[-1] > spans[-1][1]:
                break
            for run in SPACES.finditer(text[start : start + SLICE]):
                starts.append(start + run.start() + 1 - removed[-1])
                removed.append(removed[-1] + len(run[0]) - 2)

        def place(short: int) -> int:
            return short + removed[bisect_right(starts, short) - 1]

        return [(place(a), place(b - 1) + 1 if b else b) for a, b in spans]

    def first_word(self, text: str, stop: int) -> int | None:
        """Where the first word begins, up to `stop`, that has the same tokens without what is before it."""
        if not self._record.splits_on_whitespace:
            return None
        for match in between_words().finditer(text, 0, stop):
            if not self._added_near(text, match.end()):
                return match.end()
        return None

    def last_word(self, text: str, start: int, stop: int) -> int | None:
        """Where the last word between `start` and `stop` begins that has the same tokens without what is
        before it, and the other way round."""
        if not self._record.splits_on_whitespace:
            return None
        start = max(start + 1, stop - SEARCHED)
        for cut in reversed([match.end() for match in between_words().finditer(text, start, stop)]):
            if not self._added_near(text, cut):
                return cut
        return None

    def words(self, text: str, follows: bool) -> list[int]:
        """The ids of a text.

        Args:
            text: the text.
            follows: it is the end of a longer text, from where `first_word` or `last_word` have found.
        """
        if not follows:
            return ids_of(self._tokenizer, text)
        # A word is put before it, because a pre-tokenizer may treat the first word of a text differently.
        return ids_of(self._tokenizer, "a " + text)[len(ids_of(self._tokenizer, "a")) :]

    def spans(self, text: str, follows: bool, most: int) -> list[tuple[int, int, int]]:
        """As `words`, with the start and end of each, up to `most`."""
        if not follows:
            return spans_of(self._tokenizer, text, most)
        first = len(ids_of(self._tokenizer, "a"))
        found = spans_of(self._tokenizer, "a " + text, first + most)[first:]
        return [(i, start - 2, stop - 2) for i, start, stop in found]

    def proven(self, text: str, size: int, room: int) -> tuple[list[int], int]:
        """The ids with which the text provably begins, without special tokens around it, and the length of
        the prefix that they come from.

        Args:
            text: the text, or enough of it: at least `size + margin` characters.
            size: the length of the prefix, about, in characters.
            room: how many ids are needed. There may be more or fewer.

        Returns:
            The ids; none where neither argument applies.
        """
        if not self._record.splits_on_whitespace:
            return [], 0
        start = max(0, size - SEARCHED)
        for cut in reversed([match.end() for match in between_words().finditer(text, start, size)]):
            if not self._added_near(text, cut):
                return ids_of(self._tokenizer, text[:cut]), cut
        if not self._record.longest_piece:
            return [], 0
        for cut in reversed([match.start() for match in inside_word().finditer(text, start, size)]):
            if not self._added_near(text, cut):
                return self._inside_word(text[:cut], room), cut
        return [], 0

    def _inside_word(self, head: str, room: int) -> list[int]:
        """The ids of a text whose last word is cut, without those that the rest of the word could change."""
        # Added tokens are split off before normalisation; after the last one there are only words.
        behind = max((match.end() for match in self._added.finditer(head)), default=0)
        ids = ids_of(self._tokenizer, head[:behind]) if behind else []
        last = ""
        for word in self._words(head[behind:]):
            if len(ids) > room:
                return ids
            ids += self._ids(last) if last else []
            last = word
        return ids + self._shared(last, room + SPARE - len(ids))

    def _words(self, text: str) -> Iterator[str]:
        """The words of a text, normalised, as the pre-tokenizer gives them. It is called for some at a time,
        because it holds the interpreter's lock."""
        normalizer = self._tokenizer.normalizer
        normalised = text if normalizer is None else normalizer.normalize_str(text)
        start = 0
        while start < len(normalised):
            stop = normalised.find(" ", start + WORDS)
            stop = len(normalised) if stop < 0 else stop
            # A word comes first, because a pre-tokenizer may treat the first word of a text differently.
            part = ("a" if start else "") + normalised[start:stop]
            words = [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(part)]
            yield from words[1:] if start else words
            start = stop

    def _ids(self, word: str) -> list[int]:
        return [token.id for token in self._tokenizer.model.tokenize(word)]

    def _shared(self, word: str, wanted: int) -> list[int]:
        """The ids that begin the paths of `longest_piece` neighbouring cuts: the module's second argument."""
        pieces = self._tokenizer.model.tokenize(word[: max(0, wanted) * CHARACTERS] or word)
        if len(pieces) > wanted > 0:
            # Cut the word to what is wanted, so that not all of it is tokenized again for every cut.
            word = word[: pieces[wanted].offsets[0]]
        shared = self._ids(word)
        for shorter in range(1, min(self._record.longest_piece, len(word))):
            path = self._ids(word[:-shorter])
            shared = shared[: _common(shared, path)]
        return shared if len(word) >= self._record.longest_piece else []

    def _added_near(self, text: str, cut: int) -> bool:
        """There is an added token across the cut, or next to it, where it could strip spaces."""
        return bool(self._added.search(text, max(0, cut - self.margin), cut + self.margin))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text without special tokens. The library releases the interpreter's lock for batches only,
    and makes no offsets, which are slow to free, where it need not."""
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def spans_of(tokenizer: Any, text: str, most: int) -> list[tuple[int, int, int]]:
    """(id, start, end) of each token, up to `most`."""
    encoding = tokenizer.encode_batch([text], add_special_tokens=False)[0]
    # Not `encoding.offsets`, which makes all of them at once under the interpreter's lock.
    return [(i, *encoding.token_to_chars(n)) for n, i in enumerate(encoding.ids[:most])]


def _ends(run: re.Match[str]) -> str:
    return run[0][0] + run[0][-1]


def _common(left: list[int], right: list[int]) -> int:
    """The length of the longest common prefix, by bisection."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
