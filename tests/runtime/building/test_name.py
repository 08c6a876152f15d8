"""The name that a bundle gets."""

from __future__ import annotations

from pathlib import Path

from gte_runtime.building.build import _name_of


def test_a_snapshot_has_the_name_of_its_repository():
    """In the hub's cache the directory is named by a commit, which says nothing to who reads /v1/models."""
    commit = "a" * 40
    cache = Path("/hub/models--Alibaba-NLP--gte-multilingual-base/snapshots")
    assert _name_of(cache / commit) == "gte-multilingual-base"
    assert _name_of(Path("/models/checkpoint-500")) == "checkpoint-500"
    assert _name_of(Path("/my/snapshots") / commit) == commit
