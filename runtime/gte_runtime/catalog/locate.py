"""What comes with the package: a folder of graphs by architecture, and the default model.

In a wheel they lie in `gte_runtime/models`, in a checkout in `models/` at its root.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import BundleError, ConfigError, OutputError
from ..format.manifest import FILE as MANIFEST
from ..format.models import models_directory, shipped_models
from ..format.named import NamedModel, named_models
from ..machine.cache import cache_directory

PULLED = re.compile(r"[A-Za-z0-9_][\w.@-]{0,250}")


def locate(model: str | Path, variant: str = "cpu-fp32") -> Path:
    """A bundle directory for a path or a name; a shipped model is built into the user's cache at first use, in one variant.

    A model that was pulled from the hub is found by the name it was pulled by. Nothing is downloaded here.

    Raises:
        BundleError: neither a directory nor a name we know.
        ConfigError: not even a name.
    """
    if not isinstance(model, (str, Path)):
        raise ConfigError(f"model is {repr(model)[:40]}; expected a bundle directory or the name of a model")
    path = Path(model)
    try:
        if isinstance(model, Path) or (path / MANIFEST).exists():
            return path
    except OSError as error:
        raise BundleError(
            f"{str(model)[:40]}…: {error.strerror}; expected a bundle directory or the name of a shipped model"
        ) from None
    if model in shipped_models():
        return _built(models_directory() / model, variant)
    if path.is_dir():
        return path
    if path.exists():
        raise BundleError(f"{path.name} is a file; expected a bundle directory")
    known = named_models(models_directory())
    if (pulled := pulled_directory(model, known)) and (pulled / MANIFEST).exists():
        return pulled
    if model in known or any(each.hub == model for each in known.values()):
        raise BundleError(
            f"{model} is not on this machine yet; `gte pull {model}` downloads its checkpoint and builds it"
        )
    raise BundleError(
        f"{model!r:.80} is neither a bundle directory nor a model that is here (shipped: {', '.join(shipped_models()) or 'none'}); "
        "`gte pull OWNER/NAME` makes a bundle of a checkpoint on the hub, `gte build CHECKPOINT BUNDLE` of one on disk"
    )


def pulled_directory(name: str, known: Mapping[str, NamedModel]) -> Path | None:
    """Where `gte pull` puts the bundle of a name, OWNER/NAME or OWNER/NAME@REVISION; None for what is none of these."""
    model, at, revision = name.partition("@")
    model = next((each.name for each in known.values() if each.hub == model), model)
    folder = f"{model}{at}{revision}".replace("/", "--")
    return cache_directory() / "pulled" / folder if PULLED.fullmatch(folder) else None


def _built(checkpoint: Path, variant: str) -> Path:
    from ..building.build import build
    from ..format.recipe import FILE
    from ..version import __version__

    status = (checkpoint / "model.safetensors").stat()
    facts = (
        __version__,
        (checkpoint / FILE).read_text(encoding="utf-8"),
        status.st_size,
        status.st_mtime_ns,
        variant,
    )
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    target = cache_directory() / "bundles" / f"{checkpoint.name}-{key}"
    if not target.exists():
        try:
            build(checkpoint, target, graphs=checkpoint, variants=(variant,), keep_existing=True)
        except OutputError as error:
            raise OutputError(
                f"{error}; it belongs into this package's cache: GTE_CACHE names another directory for that"
            ) from None
    return target
