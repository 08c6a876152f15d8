"""Which files of a repository a build reads.

Small ones come first, so that what cannot be built shows before gigabytes are downloaded. This module knows
no network: the caller fetches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .config import read_config
from .files import Folder
from .modules import ENCODER_SETTINGS, MODULES, PROMPTS, TOKENIZER_SETTINGS, encoder_folder, read_modules
from .shards import INDEX, WEIGHTS, read_index
from .splade import ROUTER, has_router, read_splade
from .splade import files as splade_files
from .tokenizer import ADDED


def fetch_checkpoint(fetch: Callable[[str], Path | None], require: Callable[[str], Path]) -> None:
    """Fetch all files that a build reads.

    Args:
        fetch: from the name of a file to its path; None where the repository has no such file.
        require: the same; raises where there is none.

    Raises:
        CheckpointError: config.json or modules.json is not one that can be built.
    """
    found = fetch(MODULES)
    folder = None if found is None else Folder(found.parent, found.parent.name)
    if folder is not None and has_router(folder):
        require(ROUTER)
    modules = [] if folder is None else read_modules(folder)
    splade = None if folder is None else read_splade(folder)
    encoder = encoder_folder(modules)
    at = f"{encoder}/" if encoder else ""
    read_config(require(f"{at}config.json"))
    fetch(PROMPTS)
    fetch(f"{at}{TOKENIZER_SETTINGS}")
    fetch(f"{at}{ADDED}")
    if modules:
        next((path for name in ENCODER_SETTINGS if (path := fetch(f"{at}{name}")) is not None), None)
    for kind, module in modules:
        if kind in ("Pooling", "Dense"):
            require(f"{module}/config.json")
        elif kind == "Normalize":
            fetch(f"{module}/config.json")
    for file, needed in ({} if splade is None else splade_files(splade)).items():
        if needed:
            require(file)
        else:
            fetch(file)
    require(f"{at}tokenizer.json")
    for kind, module in modules:
        if kind == "Dense":
            require(f"{module}/{WEIGHTS}")
    if fetch(f"{at}{WEIGHTS}") is None:
        index = fetch(f"{at}{INDEX}")
        if index is None:
            require(f"{at}{WEIGHTS}")
        else:
            for shard in dict.fromkeys(read_index(index.parent).values()):
                require(f"{at}{shard}")
