"""Prompts by name, as sentence-transformers keeps them: text that is put before every text of a call. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError

DOCUMENT_NAMES = ("document", "passage", "corpus")
"""The first of these that a model has is the one for documents."""


def resolve(prompts: Mapping[str, str], prompt: str | None, name: str | None, default: str | None) -> str:
    """The text to put in front: given as it is, or by name, or by the default's name, or none.

    Raises:
        ConfigError: a name that the model does not have.
    """
    if prompt is not None:
        return prompt
    name = default if name is None else name
    if name is None:
        return ""
    if name not in prompts:
        raise ConfigError(
            f"prompt_name is {name[:40]!r}; this model has {', '.join(map(repr, prompts)) or 'none'}"
        )
    return prompts[name]
