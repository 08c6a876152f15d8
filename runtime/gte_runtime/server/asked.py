"""What dialects ask for in words of their own, by one rule: where a text is cut, which prompt it gets.

A field means the same on every route that has it. Two fields that say the same thing twice are taken once;
two that contradict each other are refused, and both are named.
"""

from __future__ import annotations

from typing import Any, TypedDict

from .encoding import prompt_of
from .exchange import Exchange
from .models import EmbeddingModel
from .refusals import Refusal

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "retrieval.query", "retrieval_query", "question"),
    "document": (
        "document",
        "passage",
        "search_document",
        "retrieval.passage",
        "retrieval.document",
        "retrieval_document",
        "corpus",
    ),
    "classification": ("classification",),
    "clustering": ("clustering", "separation"),
    "text-matching": ("text-matching", "similarity", "semantic_similarity", "sts"),
}
"""What a text is for: the words that Cohere, Jina, Voyage and NIM have for it, which are looked up in this
order among the names of the model's prompts."""


class Cut(TypedDict):
    """Arguments of `encode`."""

    max_length: int | None
    limit_name: str
    truncate: bool
    left: bool


def agreed(request: object, *names: str) -> tuple[str, Any]:
    """(name, value) of the one field that is given of several of one meaning; (first name, None) if none is.

    Raises:
        Refusal: two are given, with different values.
    """
    given = [(name, value) for name in names if (value := getattr(request, name, None)) is not None]
    for name, value in given[1:]:
        if value != given[0][1]:
            raise contradiction(given[0][0], name)
    return given[0] if given else (names[0], None)


def contradiction(first: str, second: str) -> Refusal:
    return Refusal(
        "contradiction", f"{first} and {second} contradict each other; send one of them", param=second
    )


def cut_of(request: object) -> Cut:
    """Where a request wants texts to be cut, and whether at all. Raises Refusal.

    `truncate` and `truncation` are true, false, or NONE, START or END, which is what is cut off;
    `truncation_direction` and `truncation_side` are left or right. The limit is `max_length`, `max_tokens` or
    `truncate_prompt_tokens`, of which -1 is the model's.
    """
    truncate = True
    side_name, side = agreed(request, "truncation_direction", "truncation_side")
    left = None if side is None else side.lower() == "left"
    how_name, how = agreed(request, "truncate", "truncation")
    if isinstance(how, str):
        how = how.upper()
        truncate = how != "NONE"
        if truncate:
            if left is not None and left != (how == "START"):
                raise contradiction(how_name, side_name)
            left = how == "START"
    elif how is not None:
        truncate = how
    limit_name, limit = agreed(request, "max_length", "max_tokens", "truncate_prompt_tokens")
    if limit_name == "truncate_prompt_tokens" and limit is not None and not truncate:
        raise contradiction(how_name, limit_name)
    if limit_name == "truncate_prompt_tokens" and limit == -1:
        limit = None
    return Cut(max_length=limit, limit_name=limit_name, truncate=truncate, left=bool(left))


def at_least_0(name: str, value: int | None) -> int | None:
    """The value, of which 0 is none. Raises Refusal for a negative one."""
    if value is not None and value < 0:
        raise Refusal(
            "invalid_value",
            f"{name} must be a non-negative integer; 0 or null is without a limit",
            param=name,
        )
    return value or None


def raw_of(request: object) -> bool:
    """Whether a request wants the model's own scores. Raises Refusal for a contradiction."""
    raw, activation = (getattr(request, name, None) for name in ("raw_scores", "use_activation"))
    if raw is not None and raw == activation:
        raise contradiction("raw_scores", "use_activation")
    return bool(raw) or activation is False


def prompt_for(x: Exchange, model: EmbeddingModel, request: object) -> str:
    """The text of the prompt that a request asks for; the model's default prompt if it asks for none.

    `prompt` and `prompt_name` name a prompt of the model, "" for none; `input_type` and `task` say what the
    text is for. A warning tells where the model has prompts, and none for that.

    Raises:
        Refusal: the name is not known, or two fields ask for different prompts.
    """
    found: list[tuple[str, str]] = []
    for field in ("prompt", "prompt_name", "input_type", "task", "text_type"):
        value = getattr(request, field, None)
        if value is not None:
            of_name = field.startswith("prompt")
            text = prompt_of(model, value, field) if of_name else _by_role(x, model, value, field)
            if found and text != found[0][1]:
                raise contradiction(found[0][0], field)
            found.append((field, text))
    return found[0][1] if found else prompt_of(model, None, "prompt")


def _by_role(x: Exchange, model: EmbeddingModel, value: str, field: str) -> str:
    prompts = model.manifest.prompts
    if value in prompts:
        return prompts[value]
    words_of_value = (value.lower(), value.lower().rpartition(".")[2])  # Jina has nl2code.query and others
    role = next((role for role, words in ROLES.items() if any(w in words for w in words_of_value)), None)
    if role is None:
        known = [*prompts, *(word for words in ROLES.values() for word in words if word not in prompts)]
        raise Refusal(
            "unknown_prompt",
            f"Unsupported {field} {repr(value)[:80]}; expected {', '.join(known)}",
            param=field,
        )
    for word in ROLES[role]:
        if word in prompts:
            return prompts[word]
    default = prompt_of(model, None, field)
    # Many models have a prompt for queries alone, and mean that documents have none.
    if prompts and (default or role != "document"):
        used = "its default prompt" if default else "no prompt"
        x.warnings.append(f"{field}={value}: the model has no prompt for it, so {used} was used")
    return default
