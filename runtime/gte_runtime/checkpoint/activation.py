"""The names of PyTorch's activations in a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import CheckpointError
from ..format.values import shown


def activation(path: object, name: str, known: Iterable[str]) -> str:
    """The name of an activation of PyTorch, such as `torch.nn.modules.activation.Tanh`, in small letters.

    Raises:
        CheckpointError: it is not one of `known`.
    """
    package, _, last = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not package.startswith("torch.") or last.lower() not in known:
        raise CheckpointError(f"{name} is {shown(path)}; implemented: {', '.join(known)} of torch.nn")
    return last.lower()
