"""Finds the bundle directory of a name or path: a directory, a model that ships, or one that was pulled.

A model that ships is a checkpoint, so its bundle is built into the user's cache when it is first opened.
Nothing is downloaded here. What a name finds in the cache is used only if no other user could have written
it; a directory that is given by its path is the caller's choice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import BundleError, ConfigError, OutputError
from ..format.manifest import FILE as MANIFEST
from ..format.manifest import FORMAT
from ..format.models import models_directory, shipped_models
from ..format.named import NamedModel, named_models
from ..machine.cache import cache_directory, distrust, make_directory, place
from ..version import __version__

PULLED = re.compile(r"[A-Za-z0-9_][\w.@-]{0,250}")
"""Names of the directories into which `gte pull` builds."""


def locate(model: str | Path, variant: str = "cpu-fp32") -> Path:
    """The bundle directory of a path or name.

    Args:
        model: a bundle directory, the name of a model that ships, or a name under which a model was pulled.
        variant: the variant with which a model that ships is built, if it has not been built with it yet.

    Raises:
        BundleError: there is no such directory and no model of that name on this machine.
        ConfigError: `model` is neither a string nor a Path.
    """
    if not isinstance(model, (str, Path)):
        raise ConfigError(f"model is {repr(model)[:40]}; expected a bundle directory or the name of a model")
    path = Path(model)
    try:
        if isinstance(model, Path) or (path / MANIFEST).exists():
            return path
    except OSError as error:
        raise BundleError(
            f"{str(model)[:40]}…: {error.strerror}; "
            "expected a bundle directory or the name of a shipped model"
        ) from None
    if model in shipped_models():
        return _built(models_directory() / model, variant)
    if path.is_dir():
        return path
    if path.exists():
        raise BundleError(f"{path.name} is a file; expected a bundle directory")
    named = named_models(models_directory())
    if (pulled := pulled_directory(model, named)) and (pulled / MANIFEST).exists():
        return pulled
    if pulled and (why := distrust(cache_directory() / "pulled" / pulled.name)):
        raise BundleError(f"{why}, so it is not used; `gte pull {model}` makes a bundle of your own")
    if model in named or any(each.hub == model for each in named.values()):
        raise BundleError(
            f"{model} is not on this machine yet; `gte pull {model}` downloads its checkpoint and builds it"
        )
    raise BundleError(
        f"{model!r:.80} is neither a bundle directory nor a model that is here "
        f"(shipped: {', '.join(shipped_models()) or 'none'}); "
        "`gte pull OWNER/NAME` makes a bundle of a checkpoint on the hub, "
        "`gte build CHECKPOINT BUNDLE` of one on disk"
    )


def pulled_directory(name: str, named: Mapping[str, NamedModel]) -> Path | None:
    """The directory into which `gte pull` builds the bundle of NAME, OWNER/NAME or either with @REVISION.

    The repository of a named model has the same directory as its name. None for a string of another form.

    Raises:
        BundleError: another user could have written it.
    """
    model, at, revision = name.partition("@")
    model = next((each.name for each in named.values() if each.hub == model), model)
    folder = f"{model}{at}{revision}".replace("/", "--")
    return place("pulled", folder) if PULLED.fullmatch(folder) else None


def _built(checkpoint: Path, variant: str) -> Path:
    """The bundle of a checkpoint that ships, in the cache; it is built if it is not there."""
    # Not at the top: everything that is opened comes through this module, and hardly anything is built then.
    from ..building.build import build
    from ..format.recipe import FILE

    status = (checkpoint / "model.safetensors").stat()
    facts = (
        __version__,
        FORMAT,
        (checkpoint / FILE).read_text(encoding="utf-8"),
        status.st_size,
        status.st_mtime_ns,
        variant,
    )
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    target = place("bundles", f"{checkpoint.name}-{key}")
    if not target.exists():
        try:
            _make(target.parent)
            build(checkpoint, target, graphs=checkpoint, variants=(variant,), keep_existing=True)
        except OutputError as error:
            raise OutputError(
                f"{error}; it belongs into this package's cache: GTE_CACHE names another directory for that"
            ) from None
    return target


def _make(folder: Path) -> None:
    try:
        make_directory(folder)
    except OSError as error:
        raise OutputError(f"{folder.name} could not be written: {error.strerror or error}") from None
