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

If neither applies, or too few tokens are kept, the caller tries a longer prefix and finally the whole text.
"""

from __future__ import annotations

import re
from typing import Any

from ..format.manifest import TokenizerRecord

SPACES = re.compile(r"[ \t\r\n]{256,}")

# Characters that are a grapheme cluster by themselves and do not compose with the character before: basic
# letters and digits, ideographs, kana, whole Hangul syllables. A text is cut only before one of these, never
# before combining marks, jamo, vowel signs, joiners or anything else that is not listed.
LONER = r"[0-9A-Za-z\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u024F\u0391-\u03A1\u03A3-\u03C9\u0410-\u044F\u05D0-\u05EA\u0621-\u063A\u0641-\u064A\u3041-\u3096\u30A1-\u30FA\u3400-\u4DBF\u4E00-\u9FFF\uAC00-\uD7A3]"  # fmt: skip  # noqa: E501
BETWEEN_WORDS = re.compile(rf"[ \t\r\n](?={LONER})")
INSIDE_WORD = re.compile(rf"(?<={LONER})(?={LONER})")

SEARCHED = 2048
"""Characters before the wanted size of a prefix in which a place to cut is searched."""
SPARE = 64
"""Tokens beyond those needed: the last few of a cut word are usually not those of the whole word."""


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

    def shorten(self, text: str) -> str:
        """The text with the same tokens in which long runs of spaces are two characters long.

        Spaces only separate words here and are no tokens. The first and the last character of a run stay,
        because an added token may be next to them.
        """
        if not self._record.splits_on_whitespace:
            return text
        return SPACES.sub(lambda run: run[0][0] + run[0][-1], text)

    def proven(self, text: str, size: int, room: int) -> list[int]:
        """The ids with which the text provably begins, without special tokens around it.

        Args:
            text: the text, or enough of it: at least `size + margin` characters.
            size: the length of the prefix, about, in characters.
            room: how many ids are needed. There may be more or fewer.

        Returns:
            The ids; none where neither argument applies.
        """
        if not self._record.splits_on_whitespace:
            return []
        start = max(0, size - SEARCHED)
        for cut in reversed([match.end() for match in BETWEEN_WORDS.finditer(text, start, size)]):
            if not self._added_near(text, cut):
                return list(self._tokenizer.encode(text[:cut], add_special_tokens=False).ids)
        if not self._record.longest_piece:
            return []
        for cut in reversed([match.start() for match in INSIDE_WORD.finditer(text, start, size)]):
            if not self._added_near(text, cut):
                return self._inside_word(text[:cut], room)
        return []

    def _inside_word(self, head: str, room: int) -> list[int]:
        """The ids of a text whose last word is cut, without those that the rest of the word could change."""
        # Added tokens are split off before normalisation; after the last one there are only words.
        behind = max((match.end() for match in self._added.finditer(head)), default=0)
        ids = list(self._tokenizer.encode(head[:behind], add_special_tokens=False).ids) if behind else []
        *words, last = self._words(head[behind:]) or [""]
        for word in words:
            ids += self._ids(word)
        return ids + self._shared(last, room + SPARE - len(ids))

    def _words(self, text: str) -> list[str]:
        normalizer = self._tokenizer.normalizer
        normalised = text if normalizer is None else normalizer.normalize_str(text)
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normalised)]

    def _ids(self, word: str) -> list[int]:
        return [token.id for token in self._tokenizer.model.tokenize(word)]

    def _shared(self, word: str, wanted: int) -> list[int]:
        """The ids that begin the paths of `longest_piece` neighbouring cuts: the module's second argument."""
        pieces = self._tokenizer.model.tokenize(word)
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
