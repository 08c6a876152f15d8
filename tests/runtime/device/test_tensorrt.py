"""TensorRT engines: shapes, keys and what is said where there are none.

Nothing here has TensorRT; nothing of it was run anywhere.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gte_runtime.device.tensorrt as module
from gte_runtime.bundle.directory import Bundle
from gte_runtime.bundle.load import engine_source
from gte_runtime.device.cuda import CudaOptions
from gte_runtime.device.tensorrt import (
    ABOUT,
    CONTEXT,
    PROFILES,
    EngineSource,
    Facts,
    Profile,
    TensorRtSession,
    build_engines,
    build_options,
    facts,
    pieces,
)
from gte_runtime.errors import ConfigError, EngineError, EngineMissing, ProviderUnavailableError
from gte_runtime.inference.batch import make_batch
from gte_runtime.machine.gpus import Devices, Gpu

KNOWN = Facts(
    bundle="b",
    variant="portable-fp16.onnx",
    onnxruntime="1.31.1",
    tensorrt="10.16.1",
    driver="580.1",
    gpu="H200, 9.0",
)
MACHINE = Devices("580.1", "13.0", (Gpu(0, "H200", "9.0", 150 * 2**30),))


@given(st.integers(1, 99999), st.integers(1, 999999))
def test_profiles_are_read_as_they_are_written(texts: int, longest: int):
    """texts x tokens, both ways."""
    profile = Profile(longest=longest, texts=texts)
    assert Profile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "32", "0x32", "32x0", "x32", "32x", "-1x32", "1x1x1", " 1x1", "ax1"])
def test_what_is_no_profile(text: str):
    """Told with an example."""
    with pytest.raises(ConfigError, match="such as 32x128"):
        Profile.parse(text)


@given(st.lists(st.integers(2, 512), min_size=1, max_size=70))
def test_every_piece_has_an_engine(lengths: list[int]):
    """Pieces follow one another, hold every token once, and fit a profile each."""
    ids = [np.full(length, row, np.int64) for row, length in enumerate(lengths)]
    batch = make_batch(np.arange(len(ids)), ids, 128)
    found = pieces(batch, PROFILES)
    assert np.array_equal(np.concatenate([piece.input_ids for piece in found]), batch.input_ids)
    assert np.concatenate([piece.rows for piece in found]).tolist() == list(range(len(lengths)))
    assert all(
        any(profile.holds(len(piece.rows), piece.lengths.max()) for profile in PROFILES) for piece in found
    )


def test_a_text_longer_than_every_engine():
    """An error with the command that helps, not an engine built while serving."""
    batch = make_batch(np.arange(2), [np.zeros(2, np.int64), np.zeros(513, np.int64)], 128)
    with pytest.raises(EngineError, match=r"513 tokens.*at most 512.*gte engine build --profile 1x513"):
        pieces(batch, PROFILES)


@pytest.mark.parametrize("field", [field.name for field in fields(Facts)])
def test_everything_an_engine_depends_on_is_in_its_key(field: str):
    """Another bundle, variant, ONNX Runtime, TensorRT, driver or GPU is another folder."""
    assert replace(KNOWN, **{field: "other"}).key != KNOWN.key
    assert replace(KNOWN).key == KNOWN.key


def test_an_engine_is_built_for_its_profile_and_kept_whole():
    """fp16, explicit shapes for both inputs, one file with the engine; never ONNX Runtime's own cache."""
    told = build_options(Profile(longest=128, texts=32), 1, Path("there/context.onnx"), Path("timing"))
    assert told["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert (
        told["trt_profile_opt_shapes"]
        == told["trt_profile_max_shapes"]
        == "input_ids:32x128,attention_mask:32x128"
    )
    assert (told["trt_dump_ep_context_model"], told["trt_ep_context_embed_mode"]) == ("1", "1")
    assert (told["device_id"], told["trt_fp16_enable"], told["trt_timing_cache_path"]) == ("1", "1", "timing")
    assert "trt_engine_cache_enable" not in told


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, new_cache: Path) -> Path:
    """One that has all libraries and a GPU. What ONNX Runtime would do on it is not pretended."""
    monkeypatch.setattr(module, "require_libraries", lambda provider: None)
    monkeypatch.setattr(module, "devices", lambda: MACHINE)
    monkeypatch.setattr(module, "tensorrt_version", lambda: "10.16.1")
    return new_cache


def test_a_missing_engine_is_an_error(machine: Path, tiny_bundle: Path):
    """It says for what there is none, and the command that builds it."""
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(
        EngineMissing,
        match=r"no TensorRT engine for .* on H200, 9\.0 with TensorRT 10\.16\.1.*: gte engine build",
    ):
        TensorRtSession(engine_source(bundle, "portable-fp16"), CudaOptions())


def test_an_unfinished_engine_is_none(machine: Path, tiny_bundle: Path):
    """A folder without its last file was not built to the end."""
    bundle = Bundle.open(tiny_bundle)
    known = facts(engine_source(bundle, "portable-fp16"), 0)
    (known.folder / "32x32").mkdir(parents=True)
    (known.folder / "32x32" / CONTEXT).write_bytes(b"half")
    with pytest.raises(EngineMissing):
        TensorRtSession(engine_source(bundle, "portable-fp16"), CudaOptions())


def test_engines_are_built_once_and_whole(machine: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """What is there is kept; what fails half way leaves nothing under its name."""
    bundle = Bundle.open(tiny_bundle)
    built: list[str] = []

    def build(source: EngineSource, profile: Profile, device: int, folder: Path, timing: Path) -> None:
        built.append(str(profile))
        (folder / CONTEXT).write_bytes(b"engine")
        if profile.longest == 512:
            raise EngineError("TensorRT ran and left no engine")

    monkeypatch.setattr(module, "_build", build)
    lines: list[str] = []
    source = engine_source(bundle, "portable-fp16")
    folder = build_engines(source, PROFILES[:2], 0, lines.append)
    build_engines(source, PROFILES[:2], 0, lines.append)
    with pytest.raises(EngineError):
        build_engines(source, PROFILES, 0, lines.append)
    assert built == ["32x32", "32x128", "16x512"]
    assert sorted(file.name for file in folder.iterdir()) == ["32x128", "32x32"]
    about = json.loads((folder / "32x32" / ABOUT).read_text(encoding="utf-8"))
    assert (about["bundle"], about["profile"], about["gpu"]) == (bundle.digest, "32x32", "H200, 9.0")
    assert "32x128: there already" in lines


def test_only_padded_graphs(machine: Path, tiny_bundle: Path):
    """Fused operators are not TensorRT's: the graph would fall into shreds."""
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(ConfigError, match="build the variant portable-fp16"):
        TensorRtSession(engine_source(bundle, "cpu-fp32"), CudaOptions())


def test_no_such_gpu(machine: Path, tiny_bundle: Path):
    """Named, with those that there are."""
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(ProviderUnavailableError, match="there is no GPU 4, only 0"):
        facts(engine_source(bundle, "portable-fp16"), 4)


def test_the_pin_is_the_one_of_the_extra():
    """`gte doctor` and the package name the same TensorRT."""
    import tomllib

    from gte_runtime.machine.libraries import TENSORRT

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"tensorrt-cu13=={TENSORRT}" in project["project"]["optional-dependencies"]["tensorrt"]
