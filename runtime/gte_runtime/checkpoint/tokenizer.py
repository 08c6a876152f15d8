"""tokenizer.json with what the files beside it change in it, as transformers and sentence-transformers do.

- `do_lower_case` in sentence_bert_config.json lower-cases texts first, unless tokenizer.json does so already.
- In tokenizer_config.json of BERT's tokenizer, `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`
  count, not what tokenizer.json says of them. Other tokenizers do not read these keys.
- `truncation` in tokenizer.json names the side at which texts are cut; the left one is refused.
- `added_tokens_decoder` in tokenizer_config.json, and added_tokens.json before it, may hold tokens that
  tokenizer.json lacks.

A bundle's tokenizer.json has all of it, so whatever opens the bundle heeds it. Where nothing is to be
changed, the bytes of the file are returned as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import BundleError, CheckpointError
from ..format.manifest import MAX_TOKENIZER
from ..format.values import parse_json, shown
from ..machine.files import read_regular
from .files import MANY_TOKENS, Folder

LFS_POINTER = b"version https://git-lfs"
SLOW = ("sentencepiece.bpe.model", "vocab.txt", "vocab.json")
"""Tokenizers in forms that only transformers' own slow classes read."""
CONFIG, ADDED = "tokenizer_config.json", "added_tokens.json"
LEFT = b'"Left"'
"""In the bytes of a tokenizer.json that may cut texts at their beginning."""
BERT = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""{key of tokenizer_config.json: key of the normalizer in tokenizer.json}."""


def read_tokenizer(folder: Folder, encoder: str, lower_case: bool) -> bytes:
    """The bytes of tokenizer.json as a bundle holds it.

    Args:
        folder: of the checkpoint.
        encoder: the folder in it that holds the tokenizer; "" for itself.
        lower_case: lower-case texts first.

    Raises:
        CheckpointError: it is missing or cannot be read, or a setting beside it is not implemented or
            contradicts it.
    """
    at = f"{encoder}/" if encoder else ""
    data = _tokenizer_json(folder, f"{at}tokenizer.json")
    config = folder.json(f"{at}{CONFIG}", {}, limit=MANY_TOKENS, unsure=True)
    added = folder.json(f"{at}{ADDED}", {}, limit=MANY_TOKENS, unsure=True)
    for key, plain in (("truncation_side", "right"), ("split_special_tokens", False)):
        if config.get(key, plain) not in (plain, None):
            raise CheckpointError(f"{at}{CONFIG}: {key} is {shown(config[key])}; implemented: {shown(plain)}")
    plain = not lower_case and not config and not added
    if plain and LEFT not in data:
        return data
    raw = _parsed(data, at)
    try:
        if "truncation_side" not in config:
            _check_side(raw, f"{at}tokenizer.json")
        changed = _add_tokens(raw, config, added)
        changed |= _as_bert(raw, config)
        changed |= lower_case and _lower_case(raw)
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{at}{CONFIG} or {ADDED} cannot be read: {str(error)[:120]}") from None
    return json.dumps(raw, ensure_ascii=False).encode() if changed else data


def _parsed(data: bytes, at: str) -> dict[str, Any]:
    """tokenizer.json, which has a vocabulary. Raises BundleError, as `Tokenizer` does for such a file."""
    try:
        raw = parse_json(data)
        if not isinstance(raw, dict) or not isinstance(raw["model"]["vocab"], (dict, list)):
            raise ValueError("it has no vocabulary")
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{at}tokenizer.json: cannot be read: {str(error)[:120]}") from None
    return raw


def _check_side(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a tokenizer that cuts texts at their beginning, as transformers lets tokenizer.json say where
    tokenizer_config.json does not. Its limit is not read there, nor here."""
    side = (raw.get("truncation") or {}).get("direction", "Right")
    if side != "Right":
        raise CheckpointError(f"{name}: the direction of truncation is {shown(side)}; implemented: 'Right'")


def _tokenizer_json(folder: Folder, name: str) -> bytes:
    try:
        data = read_regular(folder.root / name, MAX_TOKENIZER)
    except FileNotFoundError:
        slow = next((file for file in SLOW if (folder.root / name).with_name(file).exists()), None)
        way = (
            f"there is {slow}: load the tokenizer with transformers and save it again"
            if slow
            else "copy that of the model that was trained"
        )
        raise CheckpointError(
            f"no tokenizer.json in {folder.name}; the tokenizer belongs to the checkpoint and is not "
            f"replaced; {way}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"tokenizer.json cannot be read: {error.strerror or error}") from None
    if data.startswith(LFS_POINTER):
        raise CheckpointError("tokenizer.json is a Git LFS pointer, not the file itself; run git lfs pull")
    return data


def _lower_case(raw: dict[str, Any]) -> bool:
    """Put a Lowercase in front, as sentence-transformers does. False where there is one."""
    normalizer = raw.get("normalizer")
    parts: list[dict[str, Any]] = []
    if normalizer:
        parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    if any(part["type"] == "Lowercase" or part.get("lowercase") is True for part in parts):
        return False
    raw["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *parts]}
    return True


def _as_bert(raw: dict[str, Any], config: Mapping[str, Any]) -> bool:
    """What tokenizer_config.json says of BERT's normalizer; false where tokenizer.json says the same."""
    normalizer = raw.get("normalizer") or {}
    if (
        not str(config.get("tokenizer_class", "")).startswith("Bert")
        or normalizer["type"] != "BertNormalizer"
    ):
        return False
    said = {inner: config[key] for key, inner in BERT.items() if isinstance(config.get(key), bool)}
    changed = any(normalizer.get(key) != value for key, value in said.items())
    normalizer.update(said)
    return changed


def _add_tokens(raw: dict[str, Any], config: Mapping[str, Any], added: Mapping[str, Any]) -> bool:
    """Tokens that only the files beside tokenizer.json name."""
    wanted = {
        int(number): dict(token) for number, token in (config.get("added_tokens_decoder") or {}).items()
    }
    if not wanted:  # transformers reads the older file only then
        wanted = {int(number): {"content": str(content)} for content, number in added.items()}
    there = raw.setdefault("added_tokens", None) or []
    known = {token["content"]: token["id"] for token in there}
    vocabulary = raw["model"]["vocab"]
    ids: dict[str, int] = (
        vocabulary
        if isinstance(vocabulary, dict)
        else {piece: number for number, (piece, _) in enumerate(vocabulary)}
    )
    following = max([*ids.values(), *known.values(), -1]) + 1
    before = len(there)
    for number, token in sorted(wanted.items()):
        content = token["content"]
        if not isinstance(content, str) or known.get(content, number) != number:
            _refuse(content, number, f"tokenizer.json has it as {known.get(content)}")
        if content in known:
            continue
        if number != ids.get(content, following):
            _refuse(content, number, f"in tokenizer.json it would be {ids.get(content, following)}")
        following = max(following, number + 1)
        known[content] = number
        special = token.get("special", False)
        flags = {key: bool(token.get(key, False)) for key in ("single_word", "lstrip", "rstrip")}
        normalized = bool(token.get("normalized", not special))
        there.append(
            {"id": number, "content": content, **flags, "normalized": normalized, "special": special}
        )
    for token in [*(config.get("additional_special_tokens") or []), *_extra(config)]:
        content = token["content"] if isinstance(token, dict) else token
        if content not in known:
            raise CheckpointError(
                f"{CONFIG} has the special token {shown(content)}, which tokenizer.json lacks; load the "
                "tokenizer with transformers and save it again, with the model resized to it"
            )
    raw["added_tokens"] = there
    return len(there) > before


def _extra(config: Mapping[str, Any]) -> list[Any]:
    extra = config.get("extra_special_tokens") or []
    return list(extra.values() if isinstance(extra, dict) else extra)


def _refuse(content: object, number: int, found: str) -> None:
    raise CheckpointError(
        f"the files beside tokenizer.json have the token {shown(content)} with id {number}; {found}; load "
        "the tokenizer with transformers and save it again"
    )
