"""How a checkpoint wants to be used, where it says so as sentence-transformers does: its pooling and its prompts.

A graph takes the first token's state. A fine-tune that was trained with another pooling, or with a layer
behind it, would run and give vectors that are silently wrong: so it is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..machine.files import read_regular

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
FILES = (MODULES, PROMPTS, "1_Pooling/config.json")
"""What a download brings along, where it is there."""

PLAIN = ("Transformer", "Pooling", "Normalize")
"""Modules that change nothing of what this package does by itself."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompts: dict[str, str] = field(default_factory=dict)
    """Put before a text, by name."""
    default_prompt: str = ""
    """The prompt for texts of which nothing is said; empty for none."""


def read_usage(checkpoint: Path) -> Usage:
    """Read what is there; a checkpoint without these files is used plainly.

    Raises:
        CheckpointError: another pooling than the first token's, a module that is not implemented, or not JSON.
    """
    for module in _read(checkpoint, MODULES, []):
        kind = (
            str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else repr(module)[:40]
        )
        if kind not in PLAIN:
            raise CheckpointError(
                f"{MODULES} puts a {kind[:80]} behind the encoder; implemented: {', '.join(PLAIN)}"
            )
        if kind == "Pooling":
            _check_pooling(checkpoint, f"{module.get('path')}/config.json")
    raw = _read(checkpoint, PROMPTS, {})
    prompts = raw.get("prompts") or {}
    default = raw.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) for item in prompts.items() for text in item
    ):
        raise CheckpointError(f"{PROMPTS}: prompts is {repr(prompts)[:80]}; expected names and texts")
    if default and default not in prompts:
        raise CheckpointError(
            f"{PROMPTS}: default_prompt_name is {default!r:.80}, which is none of the prompts ({', '.join(prompts)})"
        )
    # Empty prompts are what sentence-transformers writes where there are none.
    return Usage(
        {name: text for name, text in prompts.items() if text}, default if prompts.get(default) else ""
    )


def _check_pooling(checkpoint: Path, name: str) -> None:
    raw = _read(checkpoint, name, None)
    if raw is None:
        raise CheckpointError(
            f"{MODULES} names {name[:80]}, which is not there; without it the pooling is not known"
        )
    modes = [
        key.removeprefix("pooling_mode_")
        for key, value in raw.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if isinstance(raw.get("pooling_mode"), str):  # how later versions spell it
        modes.append(raw["pooling_mode"])
    if not set(modes) <= {"cls", "cls_token"} or not modes:
        found = ", ".join(modes) or "none"
        raise CheckpointError(
            f"{name}: the pooling is {found[:80]}; implemented is the state of the first token (cls)"
        )


def _read(checkpoint: Path, name: str, absent: Any) -> Any:
    """Parsed JSON of the kind that `absent` is, or `absent` where there is no such file."""
    try:
        raw = json.loads(read_regular(checkpoint / name).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name[:80]} cannot be read: {str(getattr(error, 'strerror', None) or error)[:120]}"
        ) from None
    kind = list if isinstance(absent, list) else dict
    if not isinstance(raw, kind):
        raise CheckpointError(f"{name[:80]} holds a {type(raw).__name__}, expected a {kind.__name__}")
    return raw
