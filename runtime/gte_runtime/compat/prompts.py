"""Prompts by name, as in sentence-transformers: text that is put before every text of a call. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError

DOCUMENT_NAMES = ("document", "passage", "corpus")
"""The first of these prompts that a model has is used for documents."""


def resolve(prompts: Mapping[str, str], prompt: str | None, name: str | None, default: str | None) -> str:
    """The text of the prompt to use, "" for none.

    Args:
        prompts: of the model, by name.
        prompt: the text itself; goes before `name`.
        name: of one of `prompts`.
        default: the name that is used if neither is given.

    Raises:
        ConfigError: a name that the model does not have.
    """
    if prompt is not None:
        return prompt
    name = default if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        known = ", ".join(map(repr, prompts)) or "none"
        hint = "; a batch size goes to batch_size=" if isinstance(name, int) else ""
        raise ConfigError(f"prompt_name is {repr(name)[:40]}; this model has {known}{hint}")
    return prompts[name]
