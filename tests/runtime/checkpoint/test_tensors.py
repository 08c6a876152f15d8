"""A checkpoint as one view: every spelling gives the same tensors, and what does not fit is named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from spoil import no_hanging
from tensorfile import Derive, Tensor, Tensors, read_tensors

from gte_runtime import Embedder
from gte_runtime.building.build import build
from gte_runtime.checkpoint.config import read_config
from gte_runtime.checkpoint.tensors import Checkpoint, expected_shapes
from gte_runtime.errors import CheckpointError, ConfigError

WORD = "new.embeddings.word_embeddings.weight"
QKV = "new.encoder.layer.{}.attention.qkv_proj.{}"
UP_GATE = "new.encoder.layer.{}.mlp.up_gate_proj.weight"
_NUMBERS = read_config(Path(__file__).parents[3] / "models" / "gte-mini").architecture
LAYERS, HIDDEN, INNER, ROWS = (
    _NUMBERS.layers,
    _NUMBERS.hidden_size,
    _NUMBERS.intermediate_size,
    _NUMBERS.vocab_size,
)


def refused(directory: Path, *words: str, **options: bool) -> str:
    """The message: it holds all words and no path of ours."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(directory, **options)
    assert type(caught.value) is CheckpointError
    message = str(caught.value)
    for word in words:
        assert word in message
    assert str(directory.parent) not in message
    return message


# Spellings


def unpacked(tensors: Tensors) -> None:
    """Query, key and value apart, as `pack_qkv: false` stores them."""
    for n in range(LAYERS):
        for kind in ("weight", "bias"):
            packed = tensors.pop(QKV.format(n, kind)).values()
            for part, values in zip("qkv", np.split(packed, 3), strict=True):
                tensors[f"new.encoder.layer.{n}.attention.{part}_proj.{kind}"] = Tensor.of(values)


NATIVE = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "mlp.down_proj": "mlp.down_proj",
    "attn_ln": "post_attention_layernorm",
    "mlp_ln": "post_mlp_layernorm",
}


def native(tensors: Tensors) -> None:
    """As the `gte` class of transformers 5 stores them: no prefix, nothing packed."""
    unpacked(tensors)
    for n in range(LAYERS):
        up, gate = np.split(tensors.pop(UP_GATE.format(n)).values(), 2)
        tensors[f"layers.{n}.mlp.up_proj.weight"], tensors[f"layers.{n}.mlp.gate_proj.weight"] = (
            Tensor.of(up),
            Tensor.of(gate),
        )
    for name in list(tensors):
        plain = name.removeprefix("new.")
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", plain):
            plain = f"layers.{match[1]}.{NATIVE[match[2]]}.{match[3]}"
        tensors[plain] = tensors.pop(name)


def prefixed(prefix: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[prefix + name.removeprefix("new.") if name.startswith("new.") else name] = tensors.pop(
                name
            )

    return change


def stored_as(dtype: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = Tensor.of(tensor.values(), dtype)

    return change


def view(directory: Path) -> dict[str, np.ndarray]:
    with Checkpoint(directory) as checkpoint:
        return {
            name: checkpoint.read(name)
            for name in expected_shapes(checkpoint.config, checkpoint.has_sparse_head)
        }


@pytest.mark.parametrize(
    "change",
    [unpacked, native, prefixed(""), prefixed("gte."), prefixed("0.auto_model."), stored_as("F32")],
    ids=["unpacked", "native", "no prefix", "gte.", "0.auto_model.", "float32"],
)
def test_every_spelling_is_one_view(
    derived: Derive, mini_checkpoint: Path, change: Callable[[Tensors], None]
):
    """Names, packing and width of type differ from model to model; what is read does not."""
    expected, found = view(mini_checkpoint), view(derived(change))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_bfloat16_is_widened(derived: Derive):
    """bfloat16 is read as the float32 it stands for."""
    directory = derived(stored_as("BF16"))
    stored = read_tensors(directory / "model.safetensors")
    found = view(directory)
    np.testing.assert_array_equal(found["embeddings.word"], stored[WORD].values())
    np.testing.assert_array_equal(
        found["layers.1.key.bias"], stored[QKV.format(1, "bias")].values()[HIDDEN : 2 * HIDDEN]
    )


@pytest.mark.parametrize(("dtype", "expected"), [("F16", "float16"), ("F32", "float32"), ("BF16", "float32")])
def test_the_table_keeps_its_type(derived: Derive, dtype: str, expected: str):
    """The embedding table stays float16 only where it is so already."""
    with Checkpoint(derived(stored_as(dtype))) as checkpoint:
        assert checkpoint.table_dtype == expected


def test_packed_parts_are_query_key_value_and_up_gate(mini_checkpoint: Path):
    """The order inside packed tensors: query, key, value; up before gate."""
    stored, found = read_tensors(mini_checkpoint / "model.safetensors"), view(mini_checkpoint)
    for n in range(LAYERS):
        parts = [found[f"layers.{n}.{part}.weight"] for part in ("query", "key", "value")]
        np.testing.assert_array_equal(np.concatenate(parts), stored[QKV.format(n, "weight")].values())
        np.testing.assert_array_equal(
            np.concatenate([found[f"layers.{n}.up.weight"], found[f"layers.{n}.gate.weight"]]),
            stored[UP_GATE.format(n)].values(),
        )


def test_rows_and_pieces_are_parts_of_the_whole(mini_checkpoint: Path):
    """Reading a few rows, or all in pieces, gives what reading all at once gives."""
    with Checkpoint(mini_checkpoint) as checkpoint:
        table = checkpoint.read("embeddings.word")
        index = np.array([0, ROWS - 1, 7, 7])
        np.testing.assert_array_equal(checkpoint.rows("embeddings.word", index), table[index])
        pieces = list(checkpoint.read_rows("embeddings.word", 5000))
        assert [len(piece) for piece in pieces] == [5000] * (ROWS // 5000) + [ROWS % 5000] * (ROWS % 5000 > 0)
        assert pieces[0].dtype == np.float16
        np.testing.assert_array_equal(np.concatenate(pieces), table)
        keys = np.concatenate(list(checkpoint.read_rows("layers.2.key.weight", 50)))
        np.testing.assert_array_equal(keys, checkpoint.read("layers.2.key.weight"))
        assert checkpoint.shape("layers.2.key.weight") == (HIDDEN, HIDDEN)


@pytest.mark.parametrize(
    "buffer", ["new.embeddings.rotary_emb.inv_freq", "new.embeddings.position_ids", "new.rotary_emb.inv_freq"]
)
def test_tables_that_we_compute_are_passed_over(derived: Derive, buffer: str):
    """Some exporters store frequencies and positions with the weights; they are neither read nor refused."""
    with Checkpoint(
        derived(lambda tensors: tensors.update({buffer: Tensor.of(np.zeros(16, np.float32), "F32")}))
    ) as checkpoint:
        assert checkpoint.unused == ()


# Tensors that do not fit


NEEDED = sorted(
    read_tensors(Path(__file__).parents[3] / "models" / "gte-mini" / "model.safetensors").keys()
    - {"classifier.weight"}
)


@pytest.mark.parametrize("name", NEEDED)
def test_a_tensor_that_is_missing(derived: Derive, name: str):
    """Each tensor that the config asks for is named when it is not there."""
    refused(
        derived(lambda tensors: tensors.pop(name)),
        f"tensor {name.removeprefix('new.') if name == WORD else name}",
        "missing",
    )


def test_the_table_is_looked_for_under_every_prefix(derived: Derive):
    """A file of another model is told by what it has and where we looked."""
    message = refused(
        derived(prefixed("bert.")),
        "embeddings.word_embeddings.weight is missing",
        "new., gte., 0.auto_model.",
    )
    assert "bert." in message
    assert "more tensors" in message


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (WORD, (ROWS, HIDDEN // 2), [ROWS, HIDDEN]),
        (WORD, (ROWS - 1, HIDDEN), [ROWS, HIDDEN]),
        (WORD, (ROWS * HIDDEN,), [ROWS, HIDDEN]),
        ("new.embeddings.LayerNorm.bias", (HIDDEN - 1,), [HIDDEN]),
        ("new.embeddings.token_type_embeddings.weight", (2, HIDDEN), [1, HIDDEN]),
        (QKV.format(0, "weight"), (HIDDEN, HIDDEN), [3 * HIDDEN, HIDDEN]),
        (QKV.format(0, "weight"), (3 * HIDDEN, HIDDEN + 1), [3 * HIDDEN, HIDDEN]),
        (QKV.format(1, "bias"), (3 * HIDDEN - 1,), [3 * HIDDEN]),
        (QKV.format(1, "bias"), (), [3 * HIDDEN]),
        (UP_GATE.format(LAYERS - 1), (INNER, HIDDEN), [2 * INNER, HIDDEN]),
        ("new.encoder.layer.0.mlp.down_proj.weight", (HIDDEN, HIDDEN), [HIDDEN, INNER]),
        ("classifier.weight", (2, HIDDEN), [1, HIDDEN]),
        ("classifier.bias", (2,), [1]),
    ],
)
def test_a_tensor_of_another_shape(derived: Derive, name: str, shape: tuple[int, ...], expected: list[int]):
    """The tensor is named with both shapes: the one that the config implies and the one that is there."""
    directory = derived(lambda tensors: tensors.update({name: Tensor.of(np.zeros(shape, np.float32))}))
    refused(directory, f"tensor {name}: expected shape {expected} from config.json, found {list(shape)}")


@pytest.mark.parametrize("dtype", ["I8", "I64", "F64"])
@pytest.mark.parametrize("name", [WORD, QKV.format(1, "weight"), "classifier.weight"])
def test_a_tensor_of_another_type(derived: Derive, name: str, dtype: str):
    """A quantised or otherwise typed tensor is named with both types."""
    directory = derived(
        lambda tensors: tensors.update({name: Tensor.of(np.zeros(tensors[name].shape, np.float32), dtype)})
    )
    refused(directory, f"tensor {name}: expected type F32 or F16 or BF16, found {dtype}")


def test_a_config_of_another_size(derived: Derive):
    """A config that belongs to other weights names the first tensor that contradicts it."""
    expected, found = f"expected shape [{INNER}, {HIDDEN}]", f"found [{2 * INNER}, {HIDDEN}]"
    refused(
        derived(intermediate_size=INNER // 2), f"tensor {UP_GATE.format(0)}: {expected}", found, "config.json"
    )
    refused(
        derived(name="more", num_hidden_layers=LAYERS + 1),
        f"tensor new.encoder.layer.{LAYERS}.",
        "missing",
        "config",
    )
    refused(
        derived(name="fewer", num_hidden_layers=LAYERS - 1),
        f"new.encoder.layer.{LAYERS - 1}.",
        "does not use",
    )


@pytest.mark.parametrize(
    "extra", ["lm_head.decoder.weight", "new.encoder.layer.3.attn_ln.bias", "loss.weight"]
)
def test_a_tensor_too_many(derived: Derive, extra: str):
    """What the architecture does not use is named, and passes only when the user says so."""
    directory = derived(lambda tensors: tensors.update({extra: Tensor.of(np.zeros(3, np.float32))}))
    refused(
        directory, extra, "does not use", "expected only the encoder and its sparse head", "--ignore-unused"
    )
    with Checkpoint(directory, ignore_unused=True) as checkpoint:
        assert checkpoint.unused == (extra,)


def test_many_tensors_too_many(derived: Derive):
    """Three are named, the others counted."""
    directory = derived(
        lambda tensors: tensors.update({f"extra.{n}": Tensor.of(np.zeros(1, np.float32)) for n in range(9)})
    )
    assert "extra.0, extra.1, extra.2 and 6 more tensors" in refused(directory)


# Files that do not fit


def test_no_config(derived: Derive):
    """Without config.json nothing is known of a checkpoint."""
    directory = derived()
    (directory / "config.json").unlink()
    refused(directory, "no config.json in derived")


def test_a_config_that_is_a_directory(derived: Derive):
    """A directory of that name is told without its path."""
    directory = derived()
    (directory / "config.json").unlink()
    (directory / "config.json").mkdir()
    refused(directory, "config.json")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe{}", b"[]", b"3", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_config_that_is_none(derived: Derive, data: bytes):
    """The file is named and what is wrong with it."""
    directory = derived()
    (directory / "config.json").write_bytes(data)
    refused(directory, "config.json")


def test_no_weights(derived: Derive):
    """Without model.safetensors there is nothing to build."""
    directory = derived()
    (directory / "model.safetensors").unlink()
    refused(directory, "no model.safetensors in derived")


def test_weights_that_are_a_pointer(derived: Derive):
    """A clone without Git LFS has pointers in place of weights."""
    directory = derived()
    (directory / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 611\n"
    )
    refused(directory, "model.safetensors is a Git LFS pointer", "git lfs pull")


def test_weights_that_were_cut(derived: Derive):
    """A download that broke off names the first tensor that is not whole."""
    directory = derived()
    size = (directory / "model.safetensors").stat().st_size
    os.truncate(directory / "model.safetensors", size - 1)
    refused(directory, "tensor ", f"ends at byte {size}, the file has {size - 1}", "download it again")


def test_weights_that_are_a_pipe(derived: Derive):
    """Nobody waits for a pipe in place of the weights."""
    directory = derived()
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "model.safetensors")
    with no_hanging(directory / "model.safetensors"):
        refused(directory, "no model.safetensors")


def test_files_behind_links(derived: Derive, mini_checkpoint: Path, tmp_path: Path):
    """The hub's cache holds links to its files; a checkpoint, unlike a bundle, is read through them."""
    real, linked = derived(), tmp_path / "linked"
    linked.mkdir()
    for file in real.iterdir():
        (linked / file.name).symlink_to(file)
    found, expected = view(linked), view(mini_checkpoint)
    np.testing.assert_array_equal(found["embeddings.word"], expected["embeddings.word"])


def test_a_config_with_more(derived: Derive):
    """An unknown key may change the vectors: refused, until the user says that it does not."""
    directory = derived(sliding_window=128)
    refused(directory, "sliding_window", "--ignore-unused")
    with Checkpoint(directory, ignore_unused=True) as checkpoint:
        assert checkpoint.config.unknown == ("sliding_window",)


# Heads


def pooler(tensors: Tensors) -> None:
    tensors["new.pooler.dense.weight"] = Tensor.of(np.zeros((HIDDEN, HIDDEN), np.float32))
    tensors["new.pooler.dense.bias"] = Tensor.of(np.zeros(HIDDEN, np.float32))


def no_sparse_head(tensors: Tensors) -> None:
    del tensors["classifier.weight"], tensors["classifier.bias"]


def bare_pooler(tensors: Tensors) -> None:
    pooler(tensors)
    for kind in ("weight", "bias"):
        tensors[f"pooler.dense.{kind}"] = tensors.pop(f"new.pooler.dense.{kind}")


@pytest.mark.parametrize(
    "names", [["NewForSequenceClassification"], ["NewForTokenClassification"], None], ids=repr
)
@pytest.mark.parametrize("change", [pooler, bare_pooler])
def test_a_reranker(derived: Derive, names: list[str] | None, change: Callable[[Tensors], None]):
    """A classifier behind a pooler scores pairs; as a sparse head it would be silently wrong, whatever the
    config says.
    """
    with Checkpoint(derived(change, architectures=names)) as checkpoint:
        assert checkpoint.reranker
        assert not checkpoint.has_sparse_head
        assert checkpoint.read("pair_head.pooler.weight").shape == (HIDDEN, HIDDEN)
        assert checkpoint.read("pair_head.logit.weight").shape == (1, HIDDEN)


@pytest.mark.parametrize("ignore_unused", [False, True])
def test_two_poolers(derived: Derive, ignore_unused: bool):
    """One with the prefix and one without: which was trained cannot be known."""

    def change(tensors: Tensors) -> None:
        bare_pooler(tensors)
        pooler(tensors)

    refused(derived(change), "two poolers", "new.pooler.dense and pooler.dense", ignore_unused=ignore_unused)


@pytest.mark.parametrize("ignore_unused", [False, True])
def test_a_classifier_of_several_labels(derived: Derive, ignore_unused: bool):
    """What sorts texts into classes is no reranker."""

    def change(tensors: Tensors) -> None:
        pooler(tensors)
        tensors["classifier.weight"] = Tensor.of(np.zeros((3, HIDDEN), np.float32))
        tensors["classifier.bias"] = Tensor.of(np.zeros(3, np.float32))

    refused(derived(change), "3 labels", "which have one", ignore_unused=ignore_unused)


def test_token_types_of_pairs(derived: Derive):
    """A reranker whose documents take a second token-type row is refused, not run with the first."""

    def change(tensors: Tensors) -> None:
        pooler(tensors)
        tensors["new.embeddings.token_type_embeddings.weight"] = Tensor.of(np.zeros((2, HIDDEN), np.float32))

    refused(derived(change, type_vocab_size=2), "type_vocab_size 2", "token types")


@pytest.mark.parametrize("ignore_unused", [False, True])
def test_a_reranker_without_pooler(derived: Derive, ignore_unused: bool):
    """A config that names a sequence classifier promises a pooler."""
    directory = derived(architectures=["NewForSequenceClassification"])
    refused(
        directory,
        "architectures",
        "sequence classifier",
        "no pooler.dense",
        "incomplete",
        ignore_unused=ignore_unused,
    )


def test_a_pooler_that_nothing_uses(derived: Derive):
    """A pooler without classifier is left over from training, and passes only when the user says so."""

    def change(tensors: Tensors) -> None:
        no_sparse_head(tensors)
        pooler(tensors)

    directory = derived(change)
    refused(directory, "new.pooler.dense.weight, new.pooler.dense.bias", "--ignore-unused")
    with Checkpoint(directory, ignore_unused=True) as checkpoint:
        assert checkpoint.unused == ("new.pooler.dense.weight", "new.pooler.dense.bias")
        assert not checkpoint.has_sparse_head


def test_half_a_sparse_head(derived: Derive):
    """A classifier without bias is a tensor missing, a bias without classifier one too many."""
    refused(derived(lambda tensors: tensors.pop("classifier.bias")), "tensor classifier.bias is missing")
    refused(
        derived(lambda tensors: tensors.pop("classifier.weight"), name="bias"),
        "classifier.bias",
        "does not use",
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["cpu-fp32", "portable-fp32", "portable-fp16"])
def test_a_checkpoint_without_sparse_head(
    derived: Derive, mini_checkpoint: Path, mini_bundle: Path, tmp_path: Path, variant: str
):
    """It is built and embeds as with the head; sparse vectors are refused by name and left out by default."""
    directory = derived(no_sparse_head)
    with Checkpoint(directory) as checkpoint:
        assert not checkpoint.has_sparse_head
        assert "token_head.weight" not in checkpoint
    manifest = build(directory, tmp_path / "bundle", graphs=mini_checkpoint, variants=(variant,))
    assert not manifest.sparse
    with (
        Embedder.open(tmp_path / "bundle", variant=variant, threads=1) as gte,
        Embedder.open(mini_bundle, variant=variant, threads=1) as full,
    ):
        out = gte.encode(["a text", "another"])
        assert out.sparse is None
        np.testing.assert_array_equal(out.dense, full.encode(["a text", "another"]).dense)
        with pytest.raises(ConfigError, match="derived has no sparse head"):
            gte.encode("a text", sparse=True)
        with pytest.raises(ConfigError, match="no sparse head"):
            gte.token_weights("a text")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 2])
def test_other_numbers_of_token_types(derived: Derive, mini_checkpoint: Path, tmp_path: Path, rows: int):
    """Only the first row of the token types is ever used; without a table nothing is added."""
    name = "new.embeddings.token_type_embeddings.weight"

    def change(tensors: Tensors) -> None:
        first = tensors.pop(name).values()
        if rows:
            tensors[name] = Tensor.of(np.concatenate([first, 100 + np.zeros_like(first)]))

    directory = derived(change, type_vocab_size=rows)
    with Checkpoint(directory) as checkpoint:
        assert ("embeddings.token_type" in checkpoint) == bool(rows)
    build(directory, tmp_path / "bundle", graphs=mini_checkpoint)  # proves itself against the oracle


def test_the_config_beside_the_weights(mini_checkpoint: Path):
    """A checkpoint's config is that of its directory."""
    with Checkpoint(mini_checkpoint) as checkpoint:
        assert checkpoint.config == read_config(mini_checkpoint)
