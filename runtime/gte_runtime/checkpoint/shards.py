"""The weights of a checkpoint: one safetensors file, or several with an index, read as one.

The index, model.safetensors.index.json, says in which file a tensor is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import CheckpointError
from ..format.values import parse_json, shown
from ..machine.files import read_regular
from .safetensors import Entry, SafetensorsFile

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_INDEX = 16 * 2**20
"""Bytes of an index, which has some 100 for each tensor."""
MAX_SHARDS = 1000

OTHER_WEIGHTS = {
    "pytorch_model.bin": "pickled", "pytorch_model.bin.index.json": "pickled", "tf_model.h5": "TensorFlow's",
    "flax_model.msgpack": "Flax's", "model.onnx": "an ONNX export's",
}  # fmt: skip


class Weights(Mapping[str, Entry]):
    """The tensors of a checkpoint's folder. Close it.

    Raises:
        CheckpointError: there are no weights that can be read, or the index and its files contradict each
            other.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, SafetensorsFile] = {}
        self._place: dict[str, str] = {}
        try:
            if (directory / WEIGHTS).is_file():
                self.name = WEIGHTS
                self._files[WEIGHTS] = SafetensorsFile(directory / WEIGHTS)
                self._place = dict.fromkeys(self._files[WEIGHTS], WEIGHTS)
            else:
                self.name = INDEX
                self._place = read_index(directory)
                for shard in dict.fromkeys(self._place.values()):
                    self._files[shard] = self._open(directory, shard)
            self.paths = tuple(directory / name for name in self._files)
        except CheckpointError:
            self.close()
            raise

    def _open(self, directory: Path, shard: str) -> SafetensorsFile:
        if not (directory / shard).is_file():
            raise CheckpointError(f"{INDEX} names {shard}, which is not there; download it too")
        file = SafetensorsFile(directory / shard)
        named = {name for name, place in self._place.items() if place == shard}
        if odd := sorted(named ^ file.keys()):
            file.close()
            verb = "is said to have" if odd[0] in named else "has"
            raise CheckpointError(
                f"{shard} {verb} the tensor {odd[0][:80]}, unlike {INDEX}; they do not belong together"
            )
        return file

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        """Values of a tensor; see `SafetensorsFile.read`."""
        return self._files[self._place[name]].read(name, rows)

    def file_of(self, name: str) -> str:
        """The name of the file that holds a tensor."""
        return self._place[name]

    def close(self) -> None:
        """Release the files."""
        for file in self._files.values():
            file.close()

    def __getitem__(self, name: str) -> Entry:
        return self._files[self._place[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def read_index(directory: Path) -> dict[str, str]:
    """{tensor: file} of an index.

    Raises:
        CheckpointError: there is none, or it is damaged; a checkpoint in another format is named for that.
    """
    try:
        raw = parse_json(read_regular(directory / INDEX, MAX_INDEX))
    except FileNotFoundError:
        raise CheckpointError(_without_weights(directory)) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{INDEX} cannot be read: {str(error)[:120]}") from None
    places = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(places, dict) or not places or not all(map(is_shard, places.values())):
        raise CheckpointError(
            f"{INDEX}: weight_map is {shown(places)}; expected the name of a file for each tensor"
        )
    if len(set(places.values())) > MAX_SHARDS:
        raise CheckpointError(f"{INDEX} names more than {MAX_SHARDS} files")
    return places


def is_shard(name: object) -> bool:
    """Whether a value of an index is the plain name of a safetensors file."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and len(name) <= 100
        and not {"/", "\\", "\0"} & set(name)
        and not name.startswith(".")
    )


def _without_weights(directory: Path) -> str:
    name = directory.name[:80]
    if any(directory.glob("model-*-of-*.safetensors")):
        return f"{name} has shards of weights without {INDEX}, which says what is in them; download it too"
    found = next((file for file in OTHER_WEIGHTS if (directory / file).exists()), None)
    if found is None and (any(directory.glob("*.bin")) or any(directory.glob("*.pt"))):
        found = "pytorch_model.bin"
    if found is not None and OTHER_WEIGHTS[found] == "pickled":
        return (
            f"{name} has only pickled weights, which can run code and are not read; where you trust them, "
            "load them with torch.load(..., weights_only=True) and write model.safetensors with "
            "safetensors.torch.save_file"
        )
    if found is not None:
        return f"{name} has only {OTHER_WEIGHTS[found]} weights ({found}); expected model.safetensors"
    return f"no model.safetensors in {name}; a checkpoint directory has one"
