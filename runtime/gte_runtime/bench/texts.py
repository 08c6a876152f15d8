"""Makes texts with an exact number of tokens from real words of many languages.

The words are from article 1 of the Universal Declaration of Human Rights in 20 languages, without those that
have a token unknown to the bundle's tokenizer. A text takes words in order, starting with the line of its
number, and skips words with more tokens than are left. The finished text is tokenized again to check its
length. Nothing is random: the same tokenizer gives the same texts.
"""

from __future__ import annotations

import itertools
from functools import cached_property

from ..errors import ConfigError
from ..tokenization import Tokenizer

SENTENCES = """
All human beings are born free and equal in dignity and rights.
They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.
人人生而自由 在尊严和权利上一律平等
他们赋有理性和良心 并应以兄弟关系的精神相对待
Todos los seres humanos nacen libres e iguales en dignidad y derechos y,
dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.
يولد جميع الناس أحرارا متساوين في الكرامة والحقوق
وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.
Все люди рождаются свободными и равными в своем достоинстве и правах.
Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.
Tous les êtres humains naissent libres et égaux en dignité et en droits.
Ils sont doués de raison et de conscience et doivent agir les uns envers les autres \
dans un esprit de fraternité.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है
Alle Menschen sind frei und gleich an Würde und Rechten geboren.
Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.
すべての人間は 生れながらにして 自由であり かつ 尊厳と権利とについて 平等である
Todos os seres humanos nascem livres e iguais em dignidade e em direitos.
Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.
มนุษย์ทั้งหลายเกิดมามีอิสระ และเสมอภาคกันในเกียรติศักดิ์และสิทธิ
Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.
Semua orang dilahirkan merdeka dan mempunyai martabat dan hak yang sama.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.
"""


class Composer:
    """Makes texts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, tokens: int, number: int = 0) -> str:
        """A text of `tokens` tokens, special tokens included. Texts with consecutive numbers differ.

        Raises:
            ConfigError: fewer tokens than the special ones, or no such text was found for this tokenizer.
        """
        if (room := tokens - self._tokenizer.specials) < 0:
            raise ConfigError(
                f"tokens is {tokens}; expected at least {self._tokenizer.specials}, the special tokens"
            )
        first = number % len(self._costs)
        words: list[str] = []
        for word, cost in itertools.chain.from_iterable(
            itertools.cycle(self._costs[first:] + self._costs[:first])
        ):
            if room == 0:
                break
            if cost <= room:
                words.append(word)
                room -= cost
        text = " ".join(words)
        if (found := self._count(text, tokens)) != tokens:
            raise ConfigError(
                f"no text of exactly {tokens} tokens was found for this tokenizer (but of {found}); "
                "measure texts of your own"
            )
        return text

    @cached_property
    def _costs(self) -> list[list[tuple[str, int]]]:
        """The usable words of each sentence: (word, number of its tokens)."""
        unknown = set(self._tokenizer.record.drop_ids)
        sentences = []
        for sentence in SENTENCES.strip().splitlines():
            words = sentence.split()
            bodies = [
                self._body(tokens.ids.tolist()) for tokens in self._tokenizer.encode(words, max_length=512)
            ]
            known = [
                (word, len(ids))
                for word, ids in zip(words, bodies, strict=True)
                if ids and not unknown & set(ids)
            ]
            sentences += [known] if known else []
        if all(cost > 1 for sentence in sentences for _, cost in sentence):
            raise ConfigError(
                "no word is a single token of this tokenizer, so texts of an exact length cannot be made; "
                "measure texts of your own"
            )
        return sentences

    def _body(self, ids: list[int]) -> list[int]:
        return ids[len(self._tokenizer.prefix) : len(ids) - len(self._tokenizer.suffix)]

    def _count(self, text: str, expected: int) -> int:
        # The limit is larger than the expected length, so that a text that is too long is noticed.
        return len(self._tokenizer.encode([text], max_length=expected + 2)[0].ids)
