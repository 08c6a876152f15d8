"""What programs touch of sentence-transformers' models besides encoding and scoring: token counts, moves to a
device, names of modules. What cannot be here has an error that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..embedder import Embedder
from ..errors import ConfigError
from ..reranker import Reranker
from ..tokenization import as_texts, check_text
from .arguments import refuse, warn_without_effect
from .device import DEVICES, provider_of

M = TypeVar("M", bound="Surface")

NO_POOLS = "there are no process pools; one call uses all processors it may"

MODULES = "the model is an ONNX graph in a bundle and has no PyTorch modules"
TRAINING = "a bundle is not trained; train the checkpoint with sentence-transformers and build it again"
SAVING = "a bundle is data in a directory; copy that, or build another one with `gte build`"

ABSENT = {
    **dict.fromkeys(
        ("_first_module", "_last_module", "_modules", "modules", "children", "named_children",
         "named_modules", "parameters", "named_parameters", "state_dict", "load_state_dict", "buffers",
         "forward", "config",
         "transformers_model", "model", "auto_model", "processor", "module_kwargs", "get_model_kwargs",
         "add_module", "append", "pop", "compile", "load_adapter", "add_adapter", "set_adapter"), MODULES
    ),
    **dict.fromkeys(
        ("fit", "old_fit", "requires_grad_", "zero_grad", "gradient_checkpointing_enable", "model_card_data",
         "smart_batching_collate", "set_pooling_include_prompt", "set_keep_in_fp32_modules"), TRAINING
    ),
    **dict.fromkeys(("save", "save_pretrained", "save_to_hub", "push_to_hub", "load", "merge"), SAVING),
}  # fmt: skip
"""{attribute of the originals that is not here: why}."""


class Surface:
    """Attributes that the originals have in common."""

    _opened: Embedder | Reranker
    _provider: str
    max_seq_length: int

    def __getattr__(self, name: str) -> NoReturn:
        if name in ABSENT:
            raise AttributeError(f"{type(self).__name__}.{name} is not available: {ABSENT[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._opened!r})"

    @property
    def tokenizer(self) -> HubTokenizer:
        """The bundle's tokenizer with the common methods of transformers' tokenizers."""
        return HubTokenizer(self._opened, self.max_seq_length)

    def tokenize(self, texts: Sequence[Any], **_: object) -> dict[str, NDArray[np.int64]]:
        """Token ids as the model gets them: {"input_ids", "attention_mask"}, int64 [N, longest], padded."""
        return self.tokenizer(list(texts), truncation=True, padding=True, return_tensors="np")

    preprocess = tokenize

    @property
    def device(self) -> str:
        """Where the model runs; a string, where the original has a torch.device."""
        return self._provider

    _target_device = device

    def get_max_seq_length(self) -> int:
        """Tokens at which texts are cut."""
        return self.max_seq_length

    def get_backend(self) -> str:
        """As the original says of a model on ONNX Runtime."""
        return "onnx"

    def to(self: M, device: object = None, **other: object) -> M:
        """Returns itself, if the model runs on this device already. Raises ConfigError otherwise."""
        if str(device) not in DEVICES:  # a dtype of torch
            return self._cast(to=device)
        warn_without_effect(other)
        if device is not None and provider_of(device) != self._provider:
            raise ConfigError(
                f"this model is open on {self._provider!r} and is not moved; "
                f"open it with device={str(device)!r}"
            )
        return self

    def cpu(self: M) -> M:
        return self.to("cpu")

    def cuda(self: M, device: object = None) -> M:
        return self.to("cuda" if device is None else f"cuda:{device}")

    def _cast(self: M, **asked: object) -> M:
        warn_without_effect(asked)
        return self

    def half(self: M) -> M:
        """Returns itself with a warning: the precision is that of the bundle's variant."""
        return self._cast(half=True)

    def float(self: M) -> M:
        return self._cast(float=True)

    def double(self: M) -> M:
        return self._cast(double=True)

    def bfloat16(self: M) -> M:
        return self._cast(bfloat16=True)

    def train(self: M, mode: bool = True) -> M:
        """Refuses training; `train(False)` returns the model."""
        refuse({"train": mode}, TRAINING)
        return self

    def eval(self: M) -> M:
        """Returns itself: there is no training mode."""
        return self

    def share_memory(self: M) -> M:
        """Returns itself: weights are files that processes share anyway."""
        return self

    @property
    def training(self) -> bool:
        return False

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """What the evaluator says of this model."""
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    def start_multi_process_pool(self, target_devices: object = None) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"start_multi_process_pool: {NO_POOLS}")

    @staticmethod
    def stop_multi_process_pool(pool: object) -> None:
        """There is none."""

    def encode_multi_process(self, *_: object, **__: object) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"encode_multi_process: {NO_POOLS}; call encode")

    def close(self) -> None:
        """Stop all runs and release the memory."""
        self._opened.close()

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HubTokenizer:
    """The methods of transformers' tokenizers by which programs count, cut and show tokens."""

    def __init__(self, model: Embedder | Reranker, model_max_length: int) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self.model_max_length = model_max_length
        self.vocab_size = model.manifest.architecture.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"HubTokenizer({self._model!r}, model_max_length={self.model_max_length})"

    def encode(
        self,
        text: str,
        text_pair: str | None = None,
        add_special_tokens: bool = True,
        padding: object = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> list[int]:
        """The token ids of a text or pair. Nothing is cut without `truncation`."""
        refuse({"padding": padding}, "one text needs none")
        cut = truncation not in (None, False, "do_not_truncate")
        return self._ids(text, text_pair, add_special_tokens, max_length if cut else None, cut)

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        """{"input_ids", "attention_mask"}: a list for one text, lists for several, int64 arrays [N, longest]
        with return_tensors="np"."""
        if return_tensors not in (None, "np"):
            raise ConfigError(f"return_tensors is {return_tensors!r:.40}; expected None or 'np'")
        single = isinstance(text, str)
        texts = as_texts(text)
        others: Iterable[Any] = [None] * len(texts) if text_pair is None else as_texts(text_pair)
        rows = []
        for one, other in zip(texts, others, strict=True):
            pair: Any = one if isinstance(one, (tuple, list)) and len(one) == 2 else (one, other)
            rows.append(self.encode(pair[0], pair[1], add_special_tokens, False, truncation, max_length))
        longest = max(map(len, rows), default=0) if padding or return_tensors else 0
        if longest and not padding and len({len(row) for row in rows}) > 1:
            raise ConfigError("texts of different lengths make no array; pass padding=True")
        pad = self._tokenizer.pad
        result: dict[str, Any] = {
            "input_ids": [row + [pad] * (longest - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        }
        if return_tensors:
            return {
                name: np.array(value, np.int64).reshape(len(rows), longest) for name, value in result.items()
            }
        return {name: value[0] for name, value in result.items()} if single else result

    def tokenize(self, text: str) -> list[str]:
        """The text of each token, without special ones."""
        pieces: list[str] = self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))
        return pieces

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        return self._tokenizer.join(ids, skip_special_tokens)

    def batch_decode(
        self, sequences: Iterable[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Pieces of the vocabulary: a string for one id, a list for several."""
        piece = self._tokenizer.piece
        return (piece(ids) or "") if isinstance(ids, int) else [piece(each) or "" for each in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Ids of pieces of the vocabulary; None for one that it has not."""
        return (
            self._tokenizer.id_of(tokens)
            if isinstance(tokens, str)
            else [self._tokenizer.id_of(t) for t in tokens]
        )

    def get_vocab(self) -> Mapping[str, int]:
        """{piece: id}."""
        return self._tokenizer.vocabulary()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self._tokenizer.pair_specials if pair else self._tokenizer.specials

    def _ids(
        self, text: str, other: str | None, specials: bool, max_length: int | None, cut: bool
    ) -> list[int]:
        one = check_text(text, None)
        length = (max_length or self.model_max_length) if cut else LONGEST
        if other is not None:
            if not specials:
                raise ConfigError("a pair has special tokens between its texts; pass add_special_tokens=True")
            (tokens,) = self._tokenizer.encode_pairs([(one, check_text(other, None))], max_length=length)
            return list(tokens.ids.tolist())
        around = 0 if specials else self._tokenizer.specials
        (tokens,) = self._tokenizer.encode([one], max_length=length + around)
        ids: list[int] = tokens.ids.tolist()
        return ids if specials else ids[len(self._tokenizer.prefix) : len(ids) - len(self._tokenizer.suffix)]


LONGEST = 2**30
"""Tokens of a text that is not to be cut."""
