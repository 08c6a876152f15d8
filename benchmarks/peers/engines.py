"""Which peers there are, their settings, and the files that have to be made before they run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.worker import last_line

BENCHMARKS = Path(__file__).parents[1]
ROOT = BENCHMARKS.parent
MODEL = ROOT / "models/gte-multilingual-base"
OWN = "own"
"""The environment of the driver itself."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run the model: a line of the table."""

    name: str
    label: str
    module: str
    environment: str
    """A requirements file here, or OWN."""
    precision: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    """Steps of `Workshop` that make its files."""
    megabytes: int = 1500
    """Roughly the memory it takes: decides how many peers are loaded at the same time."""
    takes_ids: bool = True
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A peer that cannot run here, and why."""

    engine: str
    reason: str


class StepFailed(Exception):
    """An environment or a file could not be made."""


@dataclass(slots=True)
class Workshop:
    """Makes environments and files in one folder, each once. What failed is not tried again in this run."""

    folder: Path
    tokenizer: Path
    threads: int
    _failed: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> Path:
        return self.folder / "works.json"

    @property
    def bundle(self) -> Path:
        """Its name is a hash of what it is built from, so that it is built again after a change."""
        digest = hashlib.sha256()
        package = ROOT / "runtime/gte_runtime"
        for file in [*sorted(MODEL.iterdir()), *sorted(package.rglob("*.py"))]:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
        return self.folder / f"bundle-{digest.hexdigest()[:8]}"

    def environment(self, name: str) -> dict[str, str]:
        """The same number of threads for every library, and no access to the hub."""
        count = str(self.threads)
        paths = [str(BENCHMARKS)] + [str(ROOT / part) for part in ("runtime", "export") if name == OWN]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "RAYON_NUM_THREADS": count,
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hub"),
        }

    def python(self, name: str) -> str:
        """The interpreter of an environment, which is made if it does not exist. Raises StepFailed."""
        if name == OWN:
            return sys.executable
        home = self.folder / "envs" / name
        requirements = BENCHMARKS / "peers" / f"{name}.txt"
        stamp = home / "made-from.txt"
        if not stamp.exists() or stamp.read_text() != requirements.read_text():
            self._once(f"environment {name}", lambda: self._install(home, requirements))
            stamp.write_text(requirements.read_text())
        return str(home / "bin/python")

    def make(self, step: str) -> None:
        """Make the files of a step and of the steps before it, unless they exist. Raises StepFailed."""
        self._once(step, lambda: self._steps()[step]())

    def _once(self, name: str, work: Any) -> None:
        if name in self._failed:
            raise StepFailed(self._failed[name])
        try:
            work()
        except StepFailed as error:
            self._failed[name] = str(error)
            raise

    def _install(self, home: Path, requirements: Path) -> None:
        print(f"installing {requirements.name} ...", file=sys.stderr)
        self._call(f"env-{home.name}", [sys.executable, "-m", "venv", str(home)], OWN)
        lines = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
        # torch by itself and first: where a CPU build is at hand, the pin finds it, and the others keep it.
        first = [line for line in lines if line.startswith("torch==")]
        for part in ([*first], [line for line in lines if line not in first]):
            if part:
                self._call(f"env-{home.name}", [str(home / "bin/pip"), "install", "--quiet", *part], OWN)

    def _steps(self) -> dict[str, Any]:
        native, onnx = self.folder / "native", self.folder / "onnx/model.onnx"
        return {
            "bundle": self._make_bundle,
            "native": lambda: self._file(
                native / "modules.json", "torch", "prepare_torch", "native", self._checkpoint(), native
            ),
            "onnx": lambda: self._after("native", onnx, "torch", "prepare_torch", "onnx", native, onnx),
            "onnx-int8": lambda: self._after(
                "onnx", self._onnx8, "onnxruntime", "prepare_onnx", onnx, self._onnx8
            ),
            "openvino": lambda: self._after(
                "native", self.ir("f32"), "openvino", "prepare_openvino", "f32", native, self.ir("f32")
            ),
            "openvino-weights": lambda: self._openvino("int8-weights"),
            "openvino-static": lambda: self._openvino("int8-static", self.works),
            "fastembed": self._make_fastembed,
        }

    @property
    def _onnx8(self) -> Path:
        return self.folder / "onnx-int8/model.onnx"

    def ir(self, kind: str) -> Path:
        return self.folder / "openvino" / f"{kind}.xml"

    def _openvino(self, kind: str, *more: Path) -> None:
        self._after(
            "openvino",
            self.ir(kind),
            "openvino",
            "prepare_openvino",
            kind,
            self.ir("f32"),
            self.ir(kind),
            *more,
        )

    def _checkpoint(self) -> Path:
        target = self.folder / "checkpoint"
        self._file(
            target / "tokenizer.json",
            OWN,
            "prepare_gte",
            "checkpoint",
            self.tokenizer,
            MODEL / "config.json",
            target,
        )
        return target

    def _make_bundle(self) -> None:
        variants = [name for name in offered_variants() if name in ("cpu-fp32", "cpu-int8")]
        target = self.bundle
        for old in self.folder.glob("bundle-*"):
            if old != target:
                shutil.rmtree(old)
        self._file(
            target / "manifest.json", OWN, "prepare_gte", "bundle", self._checkpoint(), target, *variants
        )

    def _make_fastembed(self) -> None:
        """A folder as the hub would have it: the export and the tokenizer's files. They are copied, since
        onnx refuses links."""
        self.make("onnx")
        home = self.folder / "fastembed"
        home.mkdir(exist_ok=True)
        files = {
            name: self.folder / "native" / name
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        }
        files |= {name: self.folder / "onnx" / name for name in ("model.onnx", "model.onnx.data")}
        for name, source in files.items():
            if not (home / name).exists():
                shutil.copyfile(source, home / name)

    def _after(self, earlier: str, product: Path, environment: str, module: str, *arguments: object) -> None:
        self.make(earlier)
        self._file(product, environment, module, *arguments)

    def _file(self, product: Path, environment: str, module: str, *arguments: object) -> None:
        if not product.exists():
            print(f"making {product.relative_to(self.folder)} ...", file=sys.stderr)
            self._call(
                product.stem,
                [self.python(environment), "-m", f"peers.{module}", *map(str, arguments)],
                environment,
            )
        if not product.exists():
            raise StepFailed(f"{module} left no {product.name}")

    def _call(self, name: str, command: list[str], environment: str) -> None:
        log = self.folder / "logs" / f"make-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            done = subprocess.run(
                command,
                cwd=BENCHMARKS,
                env=self.environment(environment),
                stdout=file,
                stderr=file,
                check=False,
            )
        if done.returncode:
            raise StepFailed(f"{' '.join(Path(command[0]).name.split())} failed: {last_line(log)}")


def offered_variants() -> tuple[str, ...]:
    graphs = tomllib.loads((MODEL / "recipe.toml").read_text())["graph"]
    return tuple(dict.fromkeys(graph["variant"] for graph in graphs))


def all_peers(shop: Workshop) -> list[Peer]:
    """Ours first, then the others."""
    native = {"native": str(shop.folder / "native")}
    return [
        *(_ours(shop, precision) for precision in ("fp32", "int8")),
        Peer(
            "torch-fp32",
            "PyTorch eager fp32",
            "torch_eager",
            "torch",
            "fp32",
            native | {"dtype": "float32"},
            ("native",),
        ),
        Peer(
            "torch-bf16",
            "PyTorch eager bf16",
            "torch_eager",
            "torch",
            "bf16",
            native | {"dtype": "bfloat16"},
            ("native",),
            900,
        ),
        Peer(
            "sentence-transformers",
            "sentence-transformers fp32",
            "sentence_transformers",
            "torch",
            "fp32",
            native,
            ("native",),
        ),
        Peer(
            "fastembed",
            "fastembed fp32",
            "fastembed",
            "fastembed",
            "fp32",
            {"folder": str(shop.folder / "fastembed")},
            ("fastembed",),
            2000,
            takes_ids=False,
        ),
        Peer(
            "onnx-fp32",
            "plain export (ORT) fp32",
            "ort",
            "onnxruntime",
            "fp32",
            {"onnx": str(shop.folder / "onnx/model.onnx")},
            ("onnx",),
            2000,
        ),
        Peer(
            "onnx-int8",
            "quantize_dynamic (ORT) int8",
            "ort",
            "onnxruntime",
            "int8",
            {"onnx": str(shop.folder / "onnx-int8/model.onnx")},
            ("onnx-int8",),
            700,
        ),
        _openvino(shop, "f32", "fp32", "f32", {"INFERENCE_PRECISION_HINT": "f32"}, "openvino", 1700),
        _openvino(shop, "bf16", "bf16", "f32", {"INFERENCE_PRECISION_HINT": "bf16"}, "openvino", 1700),
        _openvino(
            shop,
            "int8-dynamic",
            "int8",
            "int8-weights",
            {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128},
            "openvino-weights",
            1000,
        ),
        _openvino(
            shop,
            "int8-static",
            "int8",
            "int8-static",
            {"INFERENCE_PRECISION_HINT": "f32"},
            "openvino-static",
            1000,
        ),
    ]


def _ours(shop: Workshop, precision: str) -> Peer:
    settings = {"bundle": str(shop.bundle), "variant": f"cpu-{precision}"}
    return Peer(
        f"gte-{precision}",
        f"gte-runtime {precision}",
        "gte",
        OWN,
        precision,
        settings,
        ("bundle",),
        ours=True,
    )


def _openvino(
    shop: Workshop, name: str, precision: str, file: str, hints: dict[str, Any], step: str, megabytes: int
) -> Peer:
    settings = {"ir": str(shop.ir(file)), "hints": hints}
    return Peer(
        f"openvino-{name}",
        f"OpenVINO {name}",
        "openvino",
        "openvino",
        precision,
        settings,
        (step,),
        megabytes,
    )


def prepare(peer: Peer, shop: Workshop) -> Unavailable | None:
    """Make everything that a peer needs. Returns the reason where it cannot run."""
    if peer.ours and peer.settings["variant"] not in offered_variants():
        return Unavailable(peer.name, f"not built: {MODEL.name} offers no {peer.settings['variant']}")
    try:
        shop.python(peer.environment)
        for step in peer.needs:
            shop.make(step)
    except StepFailed as error:
        return Unavailable(peer.name, str(error))
    return None
