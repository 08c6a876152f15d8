"""The parts of a job as one file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from gte_runtime import Embedder
from gte_runtime.errors import ConfigError, OutputError
from gte_runtime.jobs.merge import merge
from gte_runtime.jobs.operator import Place, Wanted
from gte_runtime.jobs.row import Fields
from gte_runtime.jobs.run import Request, run_job

TEXTS = [f"text {n} of many" for n in range(40)]


@pytest.fixture
def job(tiny_bundle: Path, tmp_path: Path) -> Request:
    lines = [json.dumps({"id": n, "text": text, "lang": "en"}) for n, text in enumerate(TEXTS)]
    lines.insert(7, "not json")
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    request = Request(
        (str(tmp_path / "in.jsonl"),),
        tmp_path / "job",
        str(tiny_bundle),
        Fields(keep=("lang",)),
        wanted=Wanted(sparse=True),
        place=Place(threads=1),
        rows_per_part=16,
    )
    run_job(request, lambda progress: None)
    return request


def test_npy_and_npz(job: Request):
    """In input order, with the ids beside them; the rejected row is in neither."""
    with Embedder.open(job.model, threads=1) as gte:
        out = gte.encode(TEXTS, sparse=True)
    assert out.dense is not None
    assert out.sparse is not None
    npy, beside = merge(job.directory, "npy")
    np.testing.assert_array_equal(np.load(npy), out.dense)
    rows = pq.read_table(beside).to_pydict()
    assert rows["id"] == list(range(40))
    assert rows["index"] == [n for n in range(41) if n != 7]
    (npz,) = merge(job.directory, "npz", job.directory.parent / "all.npz")
    with np.load(npz) as found:
        np.testing.assert_array_equal(found["dense"], out.dense)
        assert found["id"].tolist() == list(range(40))
        assert found["lang"].tolist() == ["en"] * 40
    matrix = scipy.sparse.load_npz(npz)
    expected = scipy.sparse.csr_matrix(out.sparse.to_csr()[:3], out.sparse.to_csr().shape)
    assert (matrix != expected).nnz == 0
    assert not [path for path in job.directory.iterdir() if path.name.startswith(".merged")]


def test_what_cannot_be_merged(job: Request):
    """A job that is not finished, a part that is gone, vectors that are not there."""
    (job.directory / "part-00001.parquet").rename(job.directory / "elsewhere")
    with pytest.raises(OutputError, match=r"part-00001\.parquet is missing or was changed"):
        merge(job.directory, "npy")
    (job.directory / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="is not finished"):
        merge(job.directory, "npy")
    run_job(replace(job, wanted=Wanted(dense=False, sparse=True), restart=True), lambda progress: None)
    with pytest.raises(ConfigError, match="use npz"):
        merge(job.directory, "npy")
