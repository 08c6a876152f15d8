"""What sentence-transformers puts beside a sparse encoder's weights: the pooling over the vocabulary, and the
query encoder of "doc" models.

modules.json has Transformer (or MLMTransformer) and SpladePooling; or one Router, whose router_config.json
has a route for documents with these two and a route for queries with a SparseStaticEmbedding. The names are
those of sentence-transformers 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Float32, all_finite
from ..errors import CheckpointError
from ..format.manifest import EXPANSIONS
from ..format.values import shown
from .files import MANY_TOKENS, Folder, plain_folder
from .safetensors import FLOATS, SafetensorsFile

MODULES, ROUTER = "modules.json", "router_config.json"
ENCODERS = ("Transformer", "MLMTransformer")
STATIC = ("SparseStaticEmbedding", "IDF")
"""The second is the name in the first files that were written."""


@dataclass(frozen=True, slots=True)
class Splade:
    """The settings of a sparse encoder."""

    encoder: str = ""
    """The folder of the encoder's files; "" is the checkpoint itself."""
    pooling: str = ""
    """The folder of the pooling's settings; empty where there are none."""
    queries: str = ""
    """The folder of the query encoder; empty where queries are encoded as documents are."""

    def activation(self, folder: Folder) -> str:
        """One of `manifest.EXPANSIONS`.

        Raises:
            CheckpointError: another pooling than the maximum, or an unknown activation or key.
        """
        if not self.pooling:
            return EXPANSIONS[0]
        name = f"{self.pooling}/config.json"
        raw = folder.json(name, None, unsure=True)
        if raw is None:
            raise CheckpointError(
                f"{MODULES} names {name[:80]}, which is not there; the pooling is not known"
            )
        known = {
            "pooling_strategy", "activation_function", "word_embedding_dimension", "embedding_dimension",
            "chunk_size",
        }  # fmt: skip
        if odd := sorted(raw.keys() - known):
            raise CheckpointError(f"{name[:80]} has the key {odd[0][:80]}, which is not implemented")
        if raw.get("pooling_strategy", "max") != "max":
            raise CheckpointError(
                f"{name[:80]}: pooling_strategy is {shown(raw['pooling_strategy'])}; implemented: max"
            )
        found = raw.get("activation_function", EXPANSIONS[0])
        if found not in EXPANSIONS:
            raise CheckpointError(
                f"{name[:80]}: activation_function is {shown(found)}; implemented: {', '.join(EXPANSIONS)}"
            )
        return str(found)

    def query_weights(self, folder: Folder, vocabulary: int) -> Float32 | None:
        """The weight of each entry of the vocabulary in a query, [V]; None without a query encoder.

        Raises:
            CheckpointError: they cannot be read, are not as many as the vocabulary has entries, or belong to
                another tokenizer than documents do.
        """
        if not self.queries:
            return None
        raw = folder.json(f"{self.queries}/config.json", {}, unsure=True)
        if raw.get("path"):
            raise CheckpointError(
                f"{self.queries}/config.json: path is {shown(raw['path'])}; implemented are weights in "
                "model.safetensors: load the model in sentence-transformers and save it again"
            )
        same = [
            {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")}
            for tokenizer in (
                folder.json(f"{at}tokenizer.json", {}, limit=MANY_TOKENS, unsure=True)
                for at in (f"{self.queries}/", f"{self.encoder}/" if self.encoder else "")
            )
        ]
        if same[0] and same[0] != same[1]:
            raise CheckpointError(
                f"{self.queries} has another tokenizer.json than the encoder of documents, which is not "
                "implemented"
            )
        path = folder.root / self.queries / "model.safetensors"
        if not path.is_file():
            raise CheckpointError(f"{self.queries} has no model.safetensors, so queries have no weights")
        with SafetensorsFile(path) as file:
            entry = file.get("weight")
            if entry is None or len(entry.shape) != 1 or entry.dtype not in FLOATS:
                raise CheckpointError(
                    f"{self.queries}/model.safetensors has {', '.join(file)[:80]}; "
                    "expected one vector, weight"
                )
            values = np.array(file.read("weight"), np.float32)
        if len(values) > vocabulary or not all_finite(values):
            raise CheckpointError(
                f"{self.queries}/model.safetensors has {len(values)} weights for a vocabulary of "
                f"{vocabulary}, or one that is not finite"
            )
        return np.concatenate([values, np.zeros(vocabulary - len(values), np.float32)])


def read_splade(folder: Folder) -> Splade | None:
    """The settings of a sparse encoder; None where modules.json is of another kind or is not there.

    Raises:
        CheckpointError: a route, or a module in one, that is not implemented.
    """
    modules = folder.json(MODULES, [], unsure=True)
    kinds = [_kind(module.get("type")) if isinstance(module, dict) else "" for module in modules]
    if kinds == ["Router"]:
        return _routed(folder)
    if "SpladePooling" not in kinds and "MLMTransformer" not in kinds:
        return None
    if len(kinds) != 2 or kinds[0] not in ENCODERS or kinds[1] != "SpladePooling":
        raise CheckpointError(
            f"{MODULES} has {', '.join(kinds)[:120]}; implemented for a sparse encoder: Transformer and "
            "SpladePooling"
        )
    paths = [str(module.get("path", "")) for module in modules]
    return Splade(_folder(paths[0], whole=True), _folder(paths[1]))


def has_router(folder: Folder) -> bool:
    """modules.json leads to router_config.json."""
    modules = folder.json(MODULES, [], unsure=True)
    return [_kind(module.get("type")) for module in modules if isinstance(module, dict)] == ["Router"]


def _routed(folder: Folder) -> Splade:
    raw = folder.json(ROUTER, None, unsure=True)
    if raw is None:
        raise CheckpointError(f"{MODULES} has a Router, but there is no {ROUTER}")
    types, structure = raw.get("types"), raw.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise CheckpointError(f"{ROUTER} has no types or no structure")
    kinds = {route: [_kind(types.get(path)) for path in paths] for route, paths in structure.items()}
    query, document = kinds.get("query", []), kinds.get("document", [])
    if (
        set(kinds) != {"query", "document"}
        or len(query) != 1
        or query[0] not in STATIC
        or len(document) != 2
        or document[0] not in ENCODERS
        or document[1] != "SpladePooling"
    ):
        described = "; ".join(f"{route}: {', '.join(names)}" for route, names in kinds.items())
        raise CheckpointError(
            f"{ROUTER} has the routes {described[:160]}; implemented: query with SparseStaticEmbedding, "
            "document with Transformer and SpladePooling"
        )
    return Splade(
        _folder(structure["document"][0], whole=True),
        _folder(structure["document"][1]),
        _folder(structure["query"][0]),
    )


def _kind(name: object) -> str:
    package, _, kind = str(name).rpartition(".")
    return kind if package.startswith("sentence_transformers.") else str(name)[:80]


def _folder(path: object, *, whole: bool = False) -> str:
    """The folder of a module. `whole`: it may be the checkpoint itself."""
    if whole and path in ("", "."):
        return ""
    found = plain_folder(path)
    if found is None:
        raise CheckpointError(
            f"{MODULES} keeps a module in {shown(path)}; expected the name of a folder of the checkpoint"
        )
    return found


def files(settings: Splade) -> Mapping[str, bool]:
    """{file that a build reads beside the encoder's: it must be there}."""
    found: dict[str, Any] = {f"{settings.pooling}/config.json": True} if settings.pooling else {}
    if settings.queries:
        found |= {
            f"{settings.queries}/config.json": False,
            f"{settings.queries}/tokenizer.json": False,
            f"{settings.queries}/model.safetensors": True,
        }
    return found
