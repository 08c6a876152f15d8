"""The shared libraries that an execution provider is linked with: names, places, packages that install them.

ONNX Runtime raises no error when one is missing: it writes a line to its log and leaves the provider
out. So the names are read from the provider's own library (ELF,
https://refspecs.linuxfoundation.org/elf/elf.pdf, part 5, "Dynamic Linking"). Each is loaded by its name,
as the system's loader does, or else from the packages of the Python environment, which the loader does
not search.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}

OF_THE_SYSTEM = ("libdl.", "librt.", "libpthread.", "libstdc++.", "libm.", "libgcc_s.", "libc.", "ld-linux")

PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libcudnn": "nvidia-cudnn",
    "libnvinfer": "tensorrt",
    "libnvonnxparser": "tensorrt",
}
"""The Python package of a library, by the beginning of the library's name.

The packages of CUDA 12, of cuDNN and of TensorRT also have the CUDA version in their name, as `-cu12`."""

TENSORRT = "10.16.1.11"
"""The last release of TensorRT 10. onnxruntime-gpu up to 1.31 does not load its provider with TensorRT 11."""

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5

Load = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Library:
    """One library that a provider needs."""

    name: str
    found: str | None
    """The name or path by which it loaded; None where it did not."""


def preload(provider: str, load: Load | None = None) -> list[Library]:
    """Load the libraries that a provider needs, so that ONNX Runtime finds them, and return what was found.

    The list is empty where the installed ONNX Runtime has no such provider. Tests pass `load`.
    """
    load = load or _load
    file = provider_file(provider)
    return [] if file is None else [Library(name, _find(name, load)) for name in needed(file)]


def provider_file(provider: str) -> Path | None:
    """The provider's own library in the installed ONNX Runtime."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "capi" / FILES[provider]
        if file.is_file():
            return file
    return None


def needed(file: Path) -> list[str]:
    """Names of the libraries that a file is linked with, in its order, without the C and C++ runtime."""
    with file.open("rb") as elf, mmap.mmap(elf.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return [name for name in _linked(data) if not name.startswith(OF_THE_SYSTEM)]


def remedy(missing: Iterable[str]) -> str:
    """What to do about missing libraries, in one line."""
    names = list(missing)
    steps = []
    if any(name.startswith("libcuda.so") for name in names):
        steps.append("install NVIDIA's driver (in a container: start it with --gpus all)")
    major = next(
        (name.rsplit(".", 1)[-1] for name in names if name.startswith(("libcublas", "libcudart"))), "13"
    )
    packages = dict.fromkeys(_package(name, major) for name in names if not name.startswith("libcuda.so"))
    if packages:
        steps.append("pip install " + " ".join(f"'{package}'" for package in packages))
    return ", and ".join(steps) or "nothing is missing"


def _package(name: str, major: str) -> str:
    package = next((package for start, package in PACKAGES.items() if name.startswith(start)), name)
    if package == "tensorrt":
        return f"tensorrt-cu{major}=={TENSORRT}"
    if package == "nvidia-cudnn" or (package.startswith("nvidia-") and major == "12"):
        return f"{package}-cu{major}"
    return (
        f"{package}>={major},<{int(major) + 1}"
        if package in ("nvidia-cublas", "nvidia-cuda-runtime")
        else package
    )


def _find(name: str, load: Load) -> str | None:
    for candidate in (name, *map(str, _installed(name))):
        try:
            load(candidate)
        except OSError:
            continue
        return candidate
    return None


def _load(name: str) -> object:
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def _installed(name: str) -> Iterator[Path]:
    """Where NVIDIA's Python packages put it: nvidia/cu13/lib, nvidia/cublas/lib, tensorrt_libs and so on."""
    for entry in dict.fromkeys(sys.path):
        for pattern in (f"nvidia/*/lib/{name}", f"tensorrt_libs/{name}"):
            yield from Path(entry or ".").glob(pattern)


def _linked(data: mmap.mmap) -> list[str]:
    """The DT_NEEDED entries of a 64-bit little-endian ELF file; none of any other."""
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (table,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    loads, dynamic = [], (0, 0)
    for at in range(table, table + size * count, size):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == PT_LOAD:
            loads.append((address, offset, length))
        elif kind == PT_DYNAMIC:
            dynamic = (offset, length)
    entries = []
    for at in range(dynamic[0], sum(dynamic), 16):
        tag, value = struct.unpack_from("<qQ", data, at)
        if tag == DT_NULL:
            break
        entries.append((tag, value))
    strings = next((value for tag, value in entries if tag == DT_STRTAB), 0)
    base = next(
        (
            offset + strings - address
            for address, offset, length in loads
            if address <= strings < address + length
        ),
        0,
    )
    names = [base + value for tag, value in entries if tag == DT_NEEDED]
    return [data[at : data.find(b"\0", at)].decode() for at in names]
