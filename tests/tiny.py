"""The smallest checkpoint with its graphs, to spoil and build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from golden import Golden

from gte_runtime import GteError
from gte_runtime.building.build import build
from gte_runtime.format.manifest import Manifest


class Tiny:
    """The smallest checkpoint with its graphs, in a directory of the test's own, to spoil and build."""

    def __init__(self, golden: Golden, directory: Path) -> None:
        self.checkpoint = directory / "tiny"
        self.graphs = directory / "graphs"
        self.bundle = directory / "out" / "bundle"
        shutil.copytree(golden.graphs, self.graphs)
        shutil.copytree(
            golden.checkpoint, self.checkpoint, ignore=shutil.ignore_patterns("graphs", "expected.*")
        )
        self.bundle.parent.mkdir()

    def build(self, **options: Any) -> Manifest:
        return build(self.checkpoint, self.bundle, **{"graphs": self.graphs, **options})

    def refused(self, kind: type[GteError], *words: str, **options: Any) -> GteError:
        """The exact class, all words, no path of ours, and nothing left behind: no bundle, no temporary file,
        no descriptor.
        """
        before, stood = (
            psutil.Process().num_fds(),
            sorted(self.bundle.parent.iterdir()) if self.bundle.parent.is_dir() else None,
        )
        with pytest.raises(GteError) as caught:
            self.build(**options)
        assert type(caught.value) is kind, str(caught.value)
        for word in words:
            assert word in str(caught.value)
        assert str(self.checkpoint.parent) not in str(caught.value)
        assert stood is None or sorted(self.bundle.parent.iterdir()) == stood
        assert psutil.Process().num_fds() <= before
        return caught.value
