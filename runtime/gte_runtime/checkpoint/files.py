"""Finds a checkpoint's folder and reads the small files in it. It knows no tensor and no setting.

A user may point at the folder that the hub's cache shows, `models--OWNER--NAME`: the snapshot in it is taken.
What is no checkpoint at all is named for what it is: an adapter, the output folder of a trainer, a gguf file.

In a plain folder a file that is not there does not exist. In a snapshot of the hub's cache it may only not
have been downloaded, for example because another program asked for the weights alone. The cache notes in
`.no_exist` which files the repository does not have; without that note nothing is known of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..format.values import parse_json
from ..machine.files import read_regular

MAX_BYTES = 2**20
"""Of each of these files, which are read whole. They have some 1 kB."""
CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""The folder of a repository in the hub's cache."""
TRAINER = re.compile(r"checkpoint-(\d{1,12})")
"""The folders that trainers of transformers and sentence-transformers write, by step."""
MANY_TOKENS = 32 * 2**20
"""Bytes of a tokenizer's files, in which every piece may stand."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a checkpoint: that of modules.json, or else of config.json."""

    root: Path
    name: str
    """The model's name: that of the folder or, in the hub's cache, of the repository."""
    origin: str = ""
    """In the hub's cache, `owner/name@commit`."""
    notes: Path | None = None
    """In the hub's cache, the folder that has an empty file for each file that the commit does not have."""

    def json(self, name: str, absent: Any, *, limit: int = MAX_BYTES, unsure: bool = False) -> Any:
        """A JSON file, or `absent` where the checkpoint has none.

        Args:
            name: the file, relative to the folder.
            absent: returned where there is no such file. A list where the file holds one, else an object is
                expected.
            limit: bytes of the file.
            unsure: also return `absent` where it is not known whether the checkpoint has the file.

        Raises:
            CheckpointError: it cannot be read, holds something else, or may exist but is not here.
        """
        try:
            raw = parse_json(read_regular(self.root / name, limit))
        except (FileNotFoundError, NotADirectoryError):
            if not unsure:
                self._check_absent(name)
            return absent
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{name[:80]} cannot be read: {str(getattr(error, 'strerror', None) or error)[:120]}"
            ) from None
        kind = list if isinstance(absent, list) else dict
        if not isinstance(raw, kind):
            raise CheckpointError(f"{name[:80]} holds a {type(raw).__name__}, expected a {kind.__name__}")
        return raw

    def _check_absent(self, name: str) -> None:
        if self.notes is not None and not (self.notes / name).exists():
            repository = self.origin.partition("@")[0]
            raise CheckpointError(
                f"snapshots/{self.root.name[:12]} of {repository} in the hub's cache lacks {name[:80]}, "
                "which may change the model (such as its pooling), and a note that the repository has none; "
                f"`gte pull {repository}` online asks for it. If the snapshot is complete, copy it to "
                "another folder and build that"
            )


def open_folder(path: Path) -> Folder:
    """Find the folder of a checkpoint, given what a user points at.

    Raises:
        CheckpointError: it certainly is something else, which is named, with what to do.
    """
    if path.is_file():
        raise CheckpointError(f"{path.name[:80]} is {_kind_of_file(path)}")
    if (path / "snapshots").is_dir():
        path = _snapshot(path)
    if (path / "adapter_config.json").exists():
        raise CheckpointError(
            f"{path.name[:80]} is an adapter ({_adapter(path)}), not a whole model; merge it into its base "
            "model (peft: `model.merge_and_unload().save_pretrained(DIR)`, then save the tokenizer there) "
            "and build that"
        )
    if path.is_dir() and not any((path / name).exists() for name in ("config.json", "modules.json")):
        _refuse_other_folders(path)
    name, resolved = path.resolve().name, path.resolve()
    cached = CACHED.fullmatch(resolved.parents[1].name) if resolved.parent.name == "snapshots" else None
    if cached is None:
        return Folder(path, name)
    owner, repository = cached.groups()
    notes = resolved.parents[1] / ".no_exist" / resolved.name
    return Folder(path, repository, f"{owner}/{repository}@{resolved.name}", notes)


def _snapshot(path: Path) -> Path:
    """The snapshot in the hub's cache that its branch `main` means, or the only one."""
    found = sorted(each.name for each in (path / "snapshots").iterdir() if each.is_dir())
    try:
        main = read_regular(path / "refs" / "main", 100).decode("ascii", "replace").strip()
    except OSError:
        main = ""
    chosen = main if main in found else found[0] if len(found) == 1 else None
    if chosen is None:
        raise CheckpointError(
            f"{path.name[:80]} has {len(found)} snapshots and none is that of main; "
            f"name one: {path.name[:80]}/snapshots/{found[0] if found else 'COMMIT'}"
        )
    return path / "snapshots" / chosen


def _adapter(path: Path) -> str:
    try:
        raw = parse_json(read_regular(path / "adapter_config.json", MAX_BYTES))
        kind, base = str(raw.get("peft_type") or "PEFT"), str(raw.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return "PEFT"
    return f"{kind[:20]} for {base[:80]}" if base else kind[:20]


def _refuse_other_folders(path: Path) -> None:
    if found := sorted(path.glob("*.gguf")):
        raise CheckpointError(f"{path.name[:80]} holds {found[0].name[:80]}, {_kind_of_file(found[0])}")
    steps = [int(match[1]) for each in path.iterdir() if (match := TRAINER.fullmatch(each.name))]
    if steps:
        raise CheckpointError(
            f"{path.name[:80]} is the output folder of a trainer, with {len(steps)} checkpoints; name one of "
            f"them, such as {path.name[:80]}/checkpoint-{max(steps)}"
        )


def _kind_of_file(path: Path) -> str:
    if path.suffix == ".gguf":
        return (
            "a gguf file, which is made for llama.cpp; build the checkpoint that it was made of, a folder "
            "with config.json and model.safetensors"
        )
    return "a file; a checkpoint is a folder with config.json, model.safetensors and tokenizer.json"


def plain_folder(name: object) -> str | None:
    """The name of a folder of the checkpoint itself, from a file of unknown origin; None for any other."""
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or {"/", "\\", "\0"} & set(name)
        or len(name) > 100
    ):
        return None
    return name
