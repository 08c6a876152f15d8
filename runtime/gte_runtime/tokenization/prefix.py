"""The beginning of a long text that has the same tokens as in the whole.

A million characters take half a second to tokenize, of which 8192 tokens are used. So only a prefix
is tokenized, and those of its tokens are kept that no continuation can change. Two arguments allow it:

1. Between words. The pre-tokenizer splits at spaces and drops them, and each word is tokenized by
   itself. A cut behind a space and before a letter falls between two grapheme clusters, so both
   halves are normalised as in the whole.

2. Inside a word without end (Chinese, or "aaaa..."). A Unigram model takes the path of highest score
   through the word, found from left to right: the best path to a position depends on nothing behind
   it, ties included. A piece has at most k characters, so the whole word's path stops at one of any k
   neighbouring positions p, and up to there it is the best path of the word cut at p. What the best
   paths of all k cuts have in common is therefore in the whole word's path. Runs of unknown characters
   fuse into one token, which is the same id however long the run is.

Where neither holds, nothing is proven and the caller takes more of the text, at last all of it.
"""

from __future__ import annotations

import re
from typing import Any

from ..format.manifest import TokenizerRecord

SPACES = re.compile(r"[ \t\r\n]{256,}")

# Characters that never join a neighbour into one grapheme cluster and never compose with it: basic
# letters and digits, ideographs, kana, whole Hangul syllables. Marks, jamo, vowel signs, joiners and
# whatever is not listed may; they are simply no place for a cut.
LONER = r"[0-9A-Za-z\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u024F\u0391-\u03A1\u03A3-\u03C9\u0410-\u044F\u05D0-\u05EA\u0621-\u063A\u0641-\u064A\u3041-\u3096\u30A1-\u30FA\u3400-\u4DBF\u4E00-\u9FFF\uAC00-\uD7A3]"  # fmt: skip  # noqa: E501
BETWEEN_WORDS = re.compile(rf"[ \t\r\n](?={LONER})")
INSIDE_WORD = re.compile(rf"(?<={LONER})(?={LONER})")

SEARCHED = 2048
"""Characters before the wanted size in which a place to cut is looked for."""
SPARE = 64
"""Tokens tokenized beyond those needed: cuts of a word disagree on the last few."""


class Prefixes:
    """Finds and proves prefixes for one tokenizer. `added` are the contents of its added tokens."""

    def __init__(self, tokenizer: Any, record: TokenizerRecord, added: list[str]) -> None:
        self._tokenizer = tokenizer
        self._record = record
        self._added = re.compile("|".join(map(re.escape, added)) or r"(?!)")
        self.margin = max(map(len, added), default=0) + 1
        """Characters behind a cut that are looked at, too."""

    def shorten(self, text: str) -> str:
        """Long runs of spaces made short. They separate words and are no tokens; their ends stay as they are."""
        if not self._record.splits_on_whitespace:
            return text
        return SPACES.sub(lambda run: run[0][0] + run[0][-1], text)

    def proven(self, text: str, size: int, room: int) -> list[int]:
        """Ids at the start of the text that no continuation changes, from about `size` characters.

        `room` is how many are needed; more may come. An empty list says that nothing was proven.
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
        """Ids of a text whose last word is cut, as far as all continuations share them."""
        # An added token takes part before normalisation; behind the last one there are only words.
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
        """What the best paths of `longest_piece` neighbouring cuts have in common; see the module's second argument."""
        pieces = self._tokenizer.model.tokenize(word)
        if len(pieces) > wanted > 0:
            # No need to compare more of the word than is wanted of it.
            word = word[: pieces[wanted].offsets[0]]
        shared = self._ids(word)
        for shorter in range(1, min(self._record.longest_piece, len(word))):
            path = self._ids(word[:-shorter])
            shared = shared[: _common(shared, path)]
        return shared if len(word) >= self._record.longest_piece else []

    def _added_near(self, text: str, cut: int) -> bool:
        """An added token stands across the cut or right beside it, where it may take spaces away."""
        return bool(self._added.search(text, max(0, cut - self.margin), cut + self.margin))


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common start."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
