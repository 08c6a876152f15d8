"""A bundle on disk: what is not what the manifest promises is refused, named, and costs nothing afterwards.

Rows B-44 to B-60 of the project's table of bad inputs. `refuses` holds rule R0 for each: the exact class, the file's
name, no path of ours, nothing left behind, and the next good bundle gives its vector.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wire
from numpy.typing import NDArray
from spoil import Refusal, change_manifest, replace, replace_signed, vector_of

import gte_runtime.bundle.load
from gte_runtime import Embedder
from gte_runtime.bundle.directory import Bundle
from gte_runtime.errors import (
    BundleCorruptError,
    BundleError,
    BundleVersionError,
    ConfigError,
    SelfCheckFailed,
)
from gte_runtime.format.graph import inspect_graph

GRAPH, TABLE, WEIGHTS, TOKENIZER, MANIFEST = (
    "cpu-fp32.onnx",
    "table-fp16.bin",
    "weights-fp32.bin",
    "tokenizer.json",
    "manifest.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [TABLE, WEIGHTS, TOKENIZER])
@pytest.mark.parametrize("same_content", [False, True], ids=["other content", "same content"])
def test_a_file_replaced_while_loading(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, same_content: bool
):
    """B-52: ONNX Runtime opens weights by name after they were hashed, so a file replaced in between is noticed."""
    real = gte_runtime.bundle.load.CpuSession
    good = (bundle_copy / name).read_bytes()

    def session(graph: bytes, folder: Path, *rest: Any, **options: Any) -> Any:
        if folder == bundle_copy:
            other = good if same_content else bytes([good[0] ^ 1]) + good[1:]
            (folder / "new").write_bytes(other)
            os.replace(folder / "new", folder / name)
        return real(graph, folder, *rest, **options)

    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    if name == TOKENIZER and not same_content:
        # It is read while the session is made: before the file was replaced or after, when its hash tells.
        refuses(bundle_copy, BundleCorruptError, f"{name}: expected")
    else:
        refuses(bundle_copy, BundleCorruptError, name, "replaced while loading", "open the bundle again")


def test_a_weight_file_written_to_while_loading(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """B-52: writing into the file that was hashed is noticed like a replacement."""
    real = gte_runtime.bundle.load.CpuSession

    def session(graph: bytes, folder: Path, *rest: Any, **options: Any) -> Any:
        made = real(graph, folder, *rest, **options)
        if folder == bundle_copy:
            with (folder / WEIGHTS).open("r+b") as file:
                file.write(b"\xff")
            _later(folder / WEIGHTS)
        return made

    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    refuses(bundle_copy, BundleCorruptError, WEIGHTS, "replaced while loading")


def test_a_graph_replaced_between_hash_and_load(
    refuses: Refusal, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """B-52: a graph is hashed as it is read, so what ONNX Runtime gets is what was hashed."""
    real = Bundle.check

    def check(self: Bundle, *rest: Any, **more: Any) -> Any:
        checked = real(self, *rest, **more)
        if self.directory == bundle_copy:
            replace(bundle_copy, GRAPH, bytes((bundle_copy / GRAPH).stat().st_size))
        return checked

    monkeypatch.setattr(Bundle, "check", check)
    refuses(bundle_copy, BundleCorruptError, f"{GRAPH}: expected sha256")


def _operator(node: wire.Value, **fields: bytes) -> wire.Value:
    """Give the Relu of the sparse head another name or domain."""
    message = wire.bytes_of(node)
    if wire.get(message, wire.NODE_OP) != b"Relu":
        return message
    for name, value in fields.items():
        message = wire.put(message, getattr(wire, name), value)
    return message


NODES = (wire.MODEL_GRAPH, wire.GRAPH_NODE)


TOO_NEW: dict[str, Callable[[bytes], bytes]] = {
    "opset 99": lambda graph: wire.edit(graph, (wire.MODEL_OPSET, wire.OPSET_VERSION), lambda _: 99),
    "IR 99": lambda graph: wire.edit(graph, (wire.MODEL_IR,), lambda _: 99),
    "operator": lambda graph: wire.edit(graph, NODES, lambda node: _operator(node, NODE_OP=b"Frobnicate")),
    "domain": lambda graph: wire.edit(
        graph, NODES, lambda node: _operator(node, NODE_OP=b"Frobnicate", NODE_DOMAIN=b"org.example")
    ),
}


@pytest.mark.parametrize("what", TOO_NEW)
def test_a_graph_for_a_newer_onnx_runtime(refuses: Refusal, bundle_copy: Path, what: str):
    """B-53: an opset, format or operator that ONNX Runtime does not know is a matter of its version, and both are named."""
    import onnxruntime

    replace_signed(bundle_copy, GRAPH, TOO_NEW[what]((bundle_copy / GRAPH).read_bytes()))
    refuses(bundle_copy, BundleVersionError, GRAPH, "ORT >= 1.24", onnxruntime.__version__)


def test_a_manifest_that_asks_for_a_newer_onnx_runtime(refuses: Refusal, bundle_copy: Path):
    """B-53: a bundle says which ONNX Runtime it needs, and is not tried on an older one."""
    change_manifest(bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(min_onnxruntime="99.0"))
    refuses(bundle_copy, BundleVersionError, GRAPH, "99.0", "upgrade onnxruntime")


def _value_info(name: str, kind: int) -> bytes:
    return wire.message(
        (wire.INFO_NAME, name.encode()),
        (wire.INFO_TYPE, wire.message((wire.TYPE_TENSOR, wire.message((wire.TENSOR_ELEMENT, kind))))),
    )


def _info(graph: bytes, which: int, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the declaration of one input or output."""

    def one(info: wire.Value) -> wire.Value:
        message = wire.bytes_of(info)
        return change(message) if wire.get(message, wire.INFO_NAME) == name else message

    return wire.edit(graph, (wire.MODEL_GRAPH, which), one)


def _renamed(graph: bytes) -> bytes:
    """Call the output `token_weights` something else, where it is made and where it is declared."""

    def node(value: wire.Value) -> wire.Value:
        return wire.edit(
            wire.bytes_of(value), (2,), lambda name: b"weights" if name == b"token_weights" else name
        )

    return _info(
        wire.edit(graph, NODES, node),
        wire.GRAPH_OUTPUT,
        b"token_weights",
        lambda info: wire.put(info, wire.INFO_NAME, b"weights"),
    )


def _first_dim(value: int) -> Callable[[bytes], bytes]:
    """Fix the first dimension of an input."""

    def dims(shape: wire.Value) -> wire.Value:
        first, *rest = [wire.bytes_of(dim) for _, _, dim in wire.fields(wire.bytes_of(shape))]
        assert first
        fixed = wire.message((wire.DIM_VALUE, value))
        return wire.message(*((wire.SHAPE_DIM, dim) for dim in (fixed, *rest)))

    return lambda info: wire.edit(info, (wire.INFO_TYPE, wire.TYPE_TENSOR, wire.TENSOR_SHAPE), dims)


def _declared(graph: bytes, which: int, name: str) -> bytes:
    """Declare one more input or output, int64."""
    return wire.edit(
        graph, (wire.MODEL_GRAPH,), lambda g: wire.bytes_of(g) + wire.message((which, _value_info(name, 7)))
    )


@pytest.mark.slow
def test_a_bundle_from_before_graphs_gave_states(bundle_copy: Path):
    """It opens and embeds; only states of tokens are refused, with what to do."""

    def without(info: wire.Value) -> wire.Value | None:
        return None if wire.get(wire.bytes_of(info), wire.INFO_NAME) == b"token_states" else info

    with Embedder.open(bundle_copy) as engine:
        expected = engine.encode("a").dense
    old = wire.edit((bundle_copy / GRAPH).read_bytes(), (wire.MODEL_GRAPH, wire.GRAPH_OUTPUT), without)
    replace_signed(bundle_copy, GRAPH, old)
    change_manifest(
        bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(outputs=["cls", "token_weights"])
    )
    with Embedder.open(bundle_copy) as engine:
        assert np.array_equal(engine.encode("a").dense, expected)
        with pytest.raises(ConfigError, match="build the bundle again"):
            engine.token_vectors("a")


OTHER_SIGNATURES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "extra input": (lambda graph: _declared(graph, wire.GRAPH_INPUT, "more"), "more"),
    "extra output": (
        lambda graph: _declared(graph, wire.GRAPH_OUTPUT, "flat_index"),
        "token_states, flat_index",
    ),
    "renamed output": (_renamed, "cls, weights, token_states"),
}


@pytest.mark.parametrize("what", OTHER_SIGNATURES)
def test_a_graph_with_other_inputs_or_outputs(refuses: Refusal, bundle_copy: Path, what: str):
    """B-54: names are compared with the manifest before the first run, and both lists are shown."""
    change, word = OTHER_SIGNATURES[what]
    replace_signed(bundle_copy, GRAPH, change((bundle_copy / GRAPH).read_bytes()))
    refuses(bundle_copy, BundleError, GRAPH, "expected inputs input_ids", "found", word)


def test_a_manifest_with_other_inputs(refuses: Refusal, bundle_copy: Path):
    """B-54: the same the other way round."""
    change_manifest(
        bundle_copy, lambda raw: raw["variants"]["cpu-fp32"].update(inputs=["input_ids", "attention_mask"])
    )
    refuses(
        bundle_copy,
        BundleError,
        GRAPH,
        "expected inputs input_ids, attention_mask",
        "found input_ids, position_ids",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "name", "change"),
    [
        ("cpu-fp32", b"input_ids", lambda info: wire.edit(info, (2, 1, 1), lambda _: 6)),
        ("cpu-fp32", b"input_ids", _first_dim(7)),
        ("portable-fp32", b"input_ids", _first_dim(1)),
        ("portable-fp32", b"input_ids", lambda info: wire.edit(info, (2, 1, 1), lambda _: 6)),
    ],
    ids=["int32 ids", "static tokens", "static batch", "int32 ids, padded"],
)
def test_a_graph_with_inputs_of_another_kind(
    refuses: Refusal, bundle_copy: Path, variant: str, name: bytes, change: Callable[[bytes], bytes]
):
    """B-54: an input of another type or of a fixed size is refused before the first run."""
    file = f"{variant}.onnx"
    replace_signed(
        bundle_copy, file, _info((bundle_copy / file).read_bytes(), wire.GRAPH_INPUT, name, change)
    )
    refuses(bundle_copy, BundleError, file, variant=variant)


def test_a_graph_of_another_width(refuses: Refusal, bundle_copy: Path, tiny_bundle: Path):
    """B-54: graph and weights of a model of another width, vouched for, do not pass for this one."""
    for name in (GRAPH, TABLE, WEIGHTS):
        replace_signed(bundle_copy, name, (tiny_bundle / name).read_bytes())
    refuses(bundle_copy, BundleError, GRAPH)


def test_a_graph_for_one_compiled_device(refuses: Refusal, bundle_copy: Path):
    """B-55: EPContext, which names a file to load into a device, does not load."""
    graph = wire.edit(
        (bundle_copy / GRAPH).read_bytes(),
        NODES,
        lambda node: _operator(node, NODE_OP=b"EPContext", NODE_DOMAIN=b"com.microsoft"),
    )
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH)


@pytest.mark.parametrize("operator", ["Sin", "Softplus"])
def test_a_graph_with_an_operator_that_we_never_use(refuses: Refusal, bundle_copy: Path, operator: str):
    """B-55: an operator that ONNX Runtime knows and no graph of ours holds is refused by name."""
    graph = wire.edit(
        (bundle_copy / GRAPH).read_bytes(), NODES, lambda node: _operator(node, NODE_OP=operator.encode())
    )
    replace_signed(bundle_copy, GRAPH, graph)
    refuses(bundle_copy, BundleError, GRAPH, f"the operator {operator}")


def test_a_bundle_refused_by_its_self_check_is_refused_again(refuses: Refusal, bundle_copy: Path):
    """The long text of the self-check is run when files are new; a bundle that fails by it alone stays refused."""

    def change(raw: dict[str, Any]) -> None:
        longest = max(raw["self_checks"], key=lambda check: len(check["ids"]))
        longest["dense"] = raw["self_checks"][0]["dense"]

    change_manifest(bundle_copy, change)
    refuses(bundle_copy, SelfCheckFailed, "cpu-fp32")


def test_a_model_brings_no_session_options(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """B-55: the variable that lets a model set its own session options is taken out of the environment."""
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with Embedder.open(mini_bundle, threads=1):
        assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


def _spoil_tokenizer(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((bundle / TOKENIZER).read_text(encoding="utf-8"))
    change(raw)
    replace_signed(bundle, TOKENIZER, json.dumps(raw).encode())


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"null", b'{"version": "1.0"', b"\xff\xfe", b'{"version": "2.0"}', b"[" * 100_000],
    ids=["empty", "{}", "null", "truncated", "utf16", "version", "nested"],
)
def test_a_tokenizer_that_is_none(refuses: Refusal, bundle_copy: Path, data: bytes):
    """B-56: what the tokenizers library says is told under the file's name."""
    replace_signed(bundle_copy, TOKENIZER, data)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(version="2.0"),
        lambda raw: raw.update(pre_tokenizer={"type": "Frobnicate"}),
        lambda raw: raw["model"].update(vocab=[]),
        lambda raw: raw["model"].update(unk_id=10**6),
        lambda raw: raw["model"].update(unk_id=None),
        lambda raw: raw["normalizer"].update(precompiled_charsmap="AAAA"),
    ],
    ids=["version", "unknown component", "no vocabulary", "unk out of range", "no unk", "charsmap"],
)
def test_a_tokenizer_that_the_library_refuses(
    refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]
):
    """B-56, B-57, B-58: whatever the library raises or panics about, loading or encoding, is a BundleError."""
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["normalizer"].update(precompiled_charsmap="BAAAAP////8="),
        lambda raw: raw["post_processor"]["special_tokens"].pop("</s>"),
    ],
    ids=["charsmap", "unknown special token"],
)
def test_a_tokenizer_that_panics_at_its_first_text(
    refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]
):
    """B-57: a panic at the first text, which is no Exception in Python, is a BundleError."""
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["model"]["vocab"].__setitem__(
            slice(100, 8000), raw["model"]["vocab"][100:8000][::-1]
        ),
        lambda raw: raw.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "(a+)+$"},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        lambda raw: raw["post_processor"]["special_tokens"]["</s>"].update(ids=[2**32 - 1]),
    ],
    ids=["other order", "other words", "other special token"],
)
def test_another_tokenizer(refuses: Refusal, bundle_copy: Path, change: Callable[[dict[str, Any]], object]):
    """B-58, B-60: a tokenizer of the same size but other ids is found by its hash, and without it by the recorded ids."""
    good = (bundle_copy / TOKENIZER).read_bytes()
    replace(bundle_copy, TOKENIZER, good.replace(b"\xe2\x96\x81the", b"\xe2\x96\x81eth"))
    refuses(bundle_copy, BundleCorruptError, TOKENIZER)
    replace(bundle_copy, TOKENIZER, good)
    _spoil_tokenizer(bundle_copy, change)
    refuses(bundle_copy, BundleError, TOKENIZER, "other ids", "do not belong together")


def test_a_tokenizer_with_an_id_beyond_the_table(refuses: Refusal, bundle_copy: Path):
    """B-58: an added token whose id has no row is refused at load, not at the first text that holds it."""
    _spoil_tokenizer(
        bundle_copy,
        lambda raw: raw["added_tokens"].append(
            {**raw["added_tokens"][-1], "id": 2**32 - 1, "content": "<huge>"}
        ),
    )
    refuses(bundle_copy, BundleError, TOKENIZER)


@pytest.mark.parametrize(
    "block",
    [
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"}},
    ],
    ids=["truncation", "padding"],
)  # fmt: skip
def test_a_tokenizer_with_limits_of_its_own(
    good_vector: NDArray[np.float32], bundle_copy: Path, block: dict[str, Any]
):
    """B-59: truncation and padding in the file apply to nobody's text."""
    _spoil_tokenizer(bundle_copy, lambda raw: raw.update(block))
    with Embedder.open(bundle_copy, threads=1) as gte:
        np.testing.assert_array_equal(vector_of(gte), good_vector)


def _later(file: Path) -> None:
    """Move a file's time on, whatever the clock's resolution."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, max(status.st_mtime_ns, time.time_ns()) + 1_000_000_000))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        (TOKENIZER, 2 << 30, "size up to 67108864"),
        (GRAPH, 2 << 30, "size up to 16777216"),
        (WEIGHTS, 1 << 40, "ends at byte"),
    ],
)
def test_a_size_that_only_the_manifest_promises(
    refuses: Refusal, bundle_copy: Path, name: str, size: int, expected: str
):
    """A tokenizer or graph of 2 GB is refused before it is read, a sparse weight file of a terabyte before it is hashed."""
    os.truncate(bundle_copy / name, size)
    change_manifest(bundle_copy, lambda raw: raw["files"].update({name: {"size": size, "sha256": "0" * 64}}))
    before = time.monotonic()
    with pytest.raises(BundleError, match=expected):
        Embedder.open(bundle_copy, threads=1)
    assert time.monotonic() - before < 60


def test_an_operator_that_is_not_allowed_is_refused_before_it_loads(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    """Some operators load compiled code, or compute constants, when ONNX Runtime opens the graph."""

    def session(*_: object, **__: object) -> None:
        raise AssertionError("the graph was loaded")

    monkeypatch.setattr(gte_runtime.bundle.load, "CpuSession", session)
    graph = wire.edit((bundle_copy / GRAPH).read_bytes(), NODES, lambda node: _operator(node, NODE_OP=b"Sin"))
    replace_signed(bundle_copy, GRAPH, graph)
    with pytest.raises(BundleError, match="the operator Sin"):
        Embedder.open(bundle_copy, threads=1)


def test_verify_inspects_graphs(bundle_copy: Path):
    """`gte verify` runs no graph that opening would refuse."""
    from gte_runtime.cli.verify import check_itself

    graph = (bundle_copy / GRAPH).read_bytes()
    hidden = wire.message(
        (wire.MODEL_GRAPH, wire.message((wire.GRAPH_NODE, wire.message((wire.NODE_OP, b"Loop")))))
    )
    replace_signed(bundle_copy, GRAPH, hidden + graph)
    with pytest.raises(BundleError, match="stands twice in one ModelProto"):
        check_itself(bundle_copy, lambda line: None)


def put_nan(bundle: Path, variant: str, table: str) -> None:
    """NaN in the last row of a variant's table, or in the scale of that row."""
    data = bytearray((bundle / table).read_bytes())
    facts = inspect_graph((bundle / f"{variant}.onnx").read_bytes(), variant)
    (one,) = (
        p
        for p in facts.pointers
        if p.file == table and (p.element == 1 or "int8" not in table) and p.length > 1000
    )
    value = np.array([np.nan], {1: "<f4", 10: "<f2"}[one.element]).tobytes()
    end = one.offset + one.length
    data[end - len(value) : end] = value
    replace_signed(bundle, table, bytes(data))


@pytest.mark.parametrize(
    ("variant", "table"), [("cpu-fp32", "table-fp16.bin"), ("cpu-int8", "table-int8.bin")]
)
@pytest.mark.parametrize("how", ["open", "verify"])
def test_nan_in_a_row_that_no_self_check_reads(bundle_copy: Path, variant: str, table: str, how: str):
    """NaN is found wherever it lies, by name: the row of a rare token would give NaN, or in int8 a finite vector."""
    from gte_runtime.cli.verify import check_itself

    put_nan(bundle_copy, variant, table)
    act = {
        "open": lambda: Embedder.open(bundle_copy, variant=variant, threads=1),
        "verify": lambda: check_itself(bundle_copy, lambda line: None),
    }[how]
    with pytest.raises(BundleError, match=f"{table}: tensor .* holds NaN or infinity"):
        act()
