"""The files in which sentence-transformers keeps a checkpoint's pooling, further layers and prompts.

Our graphs return the first token's state. A fine-tune that was trained with another pooling, or with a
further layer, would run and return vectors that are silently wrong: so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..format.values import parse_json, shown
from ..machine.files import read_regular

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
FILES = (MODULES, PROMPTS, "1_Pooling/config.json")
"""Files that a download includes, where the repository has them."""

MAX_BYTES = 2**20
"""Of each file, which is read whole. They have some 1 kB."""

PLAIN = ("Transformer", "Pooling", "Normalize")
"""Modules that this package implements: the encoder, its pooling, L2 normalisation."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The prompts of a checkpoint. Its pooling needs no setting, since only one is implemented."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Prompts by name. A prompt is put before a text."""
    default_prompt: str = ""
    """The name of the prompt for texts for which no prompt is named; empty for none."""


def read_settings(checkpoint: Path) -> Settings:
    """Check modules and pooling, and read the prompts. A checkpoint without these files has no prompts.

    Raises:
        CheckpointError: another pooling than the first token's, a module that is not implemented, prompts of
            the wrong type, or a file that cannot be read as JSON.
    """
    for module in _read(checkpoint, MODULES, []):
        kind = (
            str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else shown(module)[:40]
        )
        if kind not in PLAIN:
            raise CheckpointError(
                f"{MODULES} puts a {kind[:80]} behind the encoder; implemented: {', '.join(PLAIN)}"
            )
        if kind == "Pooling":
            _check_pooling(checkpoint, module.get("path"))
    raw = _read(checkpoint, PROMPTS, {})
    prompts = raw.get("prompts") or {}
    default = raw.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) for item in prompts.items() for text in item
    ):
        raise CheckpointError(f"{PROMPTS}: prompts is {shown(prompts)}; expected names and texts")
    if default and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(
            f"{PROMPTS}: default_prompt_name is {shown(default)}, "
            f"which is none of the prompts ({', '.join(prompts)[:200]})"
        )
    # Where a model has no prompts, sentence-transformers writes some that are empty.
    return Settings(
        {name: text for name, text in prompts.items() if text}, default if prompts.get(default) else ""
    )


def _check_pooling(checkpoint: Path, folder: Any) -> None:
    """Raises CheckpointError for any pooling but that of the first token."""
    if not isinstance(folder, str) or folder in ("", ".", "..") or {"/", "\\", "\0"} & set(folder):
        raise CheckpointError(
            f"{MODULES} keeps the pooling in {shown(folder)}; expected the name of a folder of the checkpoint"
        )
    name = f"{folder}/config.json"
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
    if isinstance(raw.get("pooling_mode"), str):  # how later versions of sentence-transformers write it
        modes.append(raw["pooling_mode"])
    if not set(modes) <= {"cls", "cls_token"} or not modes:
        found = ", ".join(modes) or "none"
        raise CheckpointError(
            f"{name[:80]}: the pooling is {found[:80]}; implemented is the state of the first token (cls)"
        )


def _read(checkpoint: Path, name: str, absent: Any) -> Any:
    """Parsed JSON, or `absent` where there is no such file. A list where `absent` is one, else an object."""
    try:
        raw = parse_json(read_regular(checkpoint / name, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name[:80]} cannot be read: {str(getattr(error, 'strerror', None) or error)[:120]}"
        ) from None
    kind = list if isinstance(absent, list) else dict
    if not isinstance(raw, kind):
        raise CheckpointError(f"{name[:80]} holds a {type(raw).__name__}, expected a {kind.__name__}")
    return raw
