"""A build backend for `pip download`, which wants the metadata of a source distribution.

The backends of vllm and llama-cpp-python want PyTorch and a C++ compiler for that. It is in PKG-INFO already,
and nothing is built.
"""

from __future__ import annotations

import email
from pathlib import Path


def get_requires_for_build_wheel(config_settings: object = None) -> list[str]:
    return []


def prepare_metadata_for_build_wheel(directory: str, config_settings: object = None) -> str:
    raw = Path("PKG-INFO").read_bytes()
    head = email.message_from_bytes(raw)
    name = f"{head['Name'].replace('-', '_')}-{head['Version']}.dist-info"
    target = Path(directory) / name
    target.mkdir()
    (target / "METADATA").write_bytes(raw)
    return name
