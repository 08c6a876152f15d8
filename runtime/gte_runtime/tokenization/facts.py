"""Reads the facts of a tokenizer.json that a bundle's manifest records."""

from __future__ import annotations

from typing import Any

from ..format.manifest import TokenizerRecord

ROLES = ("<s>", "</s>", "<pad>", "<unk>", "[CLS]", "[SEP]", "[PAD]", "[UNK]")
"""Special tokens by their names: begin, end, padding and unknown, as XLM-R and BERT call them."""

LOCAL_NORMALIZERS = {
    "Precompiled", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer",
}  # fmt: skip
"""Normalizers that change each grapheme cluster by itself, so that a text may be normalised in two parts.

`Replace` is not one, because its pattern may span any number of characters; nor is `Strip`, which would strip
the ends of each part."""


def read_facts(raw: dict[str, Any]) -> TokenizerRecord:
    """Read the facts of a parsed tokenizer.json, which the tokenizers library must have accepted."""
    model, added = raw["model"], raw.get("added_tokens") or []
    steps = _steps(raw.get("pre_tokenizer"), "pretokenizers")
    local = set(_steps(raw.get("normalizer"), "normalizers")) <= LOCAL_NORMALIZERS
    # An added token with a space inside could begin in one word and end in another.
    no_spaces = not any(any(map(str.isspace, token["content"])) for token in added)
    splits = (
        local
        and no_spaces
        and bool(steps)
        and steps[0] in ("WhitespaceSplit", "BertPreTokenizer", "Whitespace")
    )
    unigram = model.get("type") == "Unigram" and not model.get("byte_fallback")
    provable = (
        splits
        and unigram
        and steps == ["WhitespaceSplit", "Metaspace"]
        and not any(token["normalized"] for token in added)
    )
    ids = {token["id"] for token in added if token["content"] in ROLES} | _role_ids(model)
    return TokenizerRecord(
        drop_ids=tuple(sorted(ids)),
        longest_piece=max((len(piece) for piece, _ in model["vocab"]), default=0) if provable else 0,
        splits_on_whitespace=splits,
    )


def _steps(block: dict[str, Any] | None, inner: str) -> list[str]:
    """The types of a normalizer or pre-tokenizer, in order; a Sequence is replaced by its parts."""
    if block is None:
        return []
    if block["type"] == "Sequence":
        return [kind for part in block[inner] for kind in _steps(part, inner)]
    return [block["type"]]


def _role_ids(model: dict[str, Any]) -> set[int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return {vocabulary[role] for role in ROLES if role in vocabulary}
    return {index for index, (piece, _) in enumerate(vocabulary) if piece in ROLES}
