"""Damaged bundles, opened in a child process with limits: never a signal, a hang, or another error than
ours."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import damage
from fuzzing import examples
from golden import Golden
from spoil import replace_signed

from gte_runtime import GteError
from gte_runtime.building.build import build
from gte_runtime.cli.verify import check_itself

FILES = ("tokenizer.json", "cpu-fp32.onnx", "table-fp16.bin", "weights-fp32.bin")
INT8 = ("cpu-int8.onnx", "table-int8.bin", "weights-int8.bin")

CHILD = """
import hashlib, json, resource, signal, sys
from pathlib import Path
bundle, variant, signed = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "signed"
sys.path.insert(0, sys.argv[4])
from damage import damage
from spoil import signed as signed_manifest
import numpy as np
from gte_runtime import Embedder, GteError
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
manifest = (bundle / "manifest.json").read_bytes()

def vectors():
    with Embedder.open(bundle, variant=variant, threads=1) as gte:
        return gte.encode(["Where does the river meet the sea?", "北京 ½"]).dense

good = vectors()
for line in sys.stdin:
    name, seed = json.loads(line)
    print(json.dumps({"file": name, "seed": seed}), end=" ", flush=True)
    data = (bundle / name).read_bytes()
    spoilt = damage(data, seed, text=name.endswith(".json"))
    if spoilt == data:
        print("same", flush=True)
        continue
    signal.alarm(120)
    (bundle / name).unlink()
    (bundle / name).write_bytes(spoilt)
    if signed:
        raw = json.loads(manifest)
        raw["files"][name] = {"size": len(spoilt), "sha256": hashlib.sha256(spoilt).hexdigest()}
        (bundle / "manifest.json").write_bytes(signed_manifest(raw))
    try:
        found = vectors()
    except GteError as error:
        print("refused", flush=True)
    except BaseException as error:
        print("RAW", type(error).__name__, str(error)[:200], flush=True)
    else:
        same = np.array_equal(found, good)
        print("equal" if same else "other" if np.isfinite(found).all() else "NAN", flush=True)
    (bundle / name).unlink()
    (bundle / name).write_bytes(data)
    (bundle / "manifest.json").write_bytes(manifest)
"""


def outcomes(
    bundle: Path, folder: Path, variant: str, cases: list[tuple[str, int]], *, signed: bool
) -> list[str]:
    """Opens a copy of a bundle once for each (file, seed) with that damage. A line for each."""
    copy = folder / "copy"
    shutil.copytree(bundle, copy)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD,
            copy,
            variant,
            "signed" if signed else "plain",
            str(Path(__file__).parents[2]),
        ],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    lines = done.stdout.splitlines()
    shutil.rmtree(copy)
    assert done.returncode == 0, f"it ended with {done.returncode} at {lines[-1:]}: {done.stderr[-500:]}"
    assert len(lines) == len(cases)
    return lines


def words(lines: list[str]) -> set[str]:
    return {line.split("} ", 1)[1].split()[0] for line in lines}


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_files(tiny_bundle: Path, tmp_path: Path, count: int):
    """Random damages of each file: all are refused, none is loaded."""
    cases = [(name, seed) for name in FILES for seed in range(count)]
    lines = outcomes(tiny_bundle, tmp_path, "cpu-fp32", cases, signed=False)
    assert words(lines) <= {"refused", "same"}, [line for line in lines if "refused" not in line][:5]


def _signed(names: tuple[str, ...], count: int, first: int) -> list[tuple[str, int]]:
    return [(name, first + seed) for name in names for seed in range(count)]


@pytest.mark.parametrize("count", [6, pytest.param(75, marks=pytest.mark.slow)])
def test_damaged_files_with_hashes_that_fit(tiny_bundle: Path, tmp_path: Path, count: int):
    """The same with the damaged file's hash in the manifest: refused as what it is, or opened and finite. A
    changed weight that the self-check's tolerance allows gives other vectors; nothing but a signature could
    tell it from a fine-tune."""
    lines = outcomes(tiny_bundle, tmp_path, "cpu-fp32", _signed(FILES, count, 1000), signed=True)
    assert words(lines) <= {"refused", "same", "equal", "other"}, [
        line for line in lines if "RAW" in line or "NAN" in line
    ][:5]


@pytest.mark.slow
def test_damaged_int8_with_hashes_that_fit(tiny_bundle: Path, tmp_path: Path):
    """The same for int8, which has no NaN of its own."""
    lines = outcomes(tiny_bundle, tmp_path, "cpu-int8", _signed(INT8, 40, 2000), signed=True)
    assert words(lines) <= {"refused", "same", "equal", "other"}, [
        line for line in lines if "RAW" in line or "NAN" in line
    ][:5]


@pytest.mark.slow
def test_damaged_graphs_for_gpus_with_hashes_that_fit(golden: Golden, tmp_path: Path):
    """`gte verify` runs such a graph in numpy, which raises many kinds of errors: all become ours."""
    bundle = tmp_path / "bundle"
    build(golden.checkpoint, bundle, graphs=golden.graphs, variants=("cuda-fp16",))
    good = (bundle / "cuda-fp16.onnx").read_bytes()
    for seed in range(examples(30)):
        replace_signed(bundle, "cuda-fp16.onnx", damage(good, seed))
        with contextlib.suppress(GteError), np.errstate(all="ignore"):
            check_itself(bundle, lambda line: None)
