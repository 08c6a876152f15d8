"""A job on a local Ray, if it is installed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gte_runtime.errors import ConfigError
from gte_runtime.jobs.operator import Place, TableEmbedder, Wanted
from gte_runtime.jobs.ray import on_ray
from gte_runtime.jobs.run import Progress, Request, run_job

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gte-runtime[ray]'")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    # The paths of the tests go to the workers, which import what is pickled.
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def request_(tiny_bundle: Path, tmp_path: Path) -> Request:
    with (tmp_path / "in.jsonl").open("w") as file:
        for n in range(400):
            file.write(
                "not json\n" if n == 77 else json.dumps({"id": n, "text": f"text {n} " * (n % 9)}) + "\n"
            )
    return Request(
        (str(tmp_path / "in.jsonl"),),
        tmp_path / "job",
        str(tiny_bundle),
        wanted=Wanted(sparse=True),
        place=Place(threads=1),
        rows_per_part=48,
    )


def parts(directory: Path) -> list[Any]:
    return [pq.read_table(path) for path in sorted(directory.glob("part-*"))]


def test_the_same_parts_as_on_one_machine(cluster: Any, request_: Request, tmp_path: Path):
    """Bit for bit; and a job that was begun here goes on there."""
    run_job(other := replace(request_, directory=tmp_path / "here"), lambda progress: None)

    def stop(progress: Progress) -> None:
        if progress.rows >= 96:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(request_, stop)
    summary = run_job(request_, lambda progress: None, on_ray(actors=2))
    assert (summary["rows"], summary["rejected"]) == (400, 1)
    assert all(
        here.equals(there)
        for here, there in zip(parts(other.directory), parts(request_.directory), strict=True)
    )


def test_actors_that_are_killed(cluster: Any, request_: Request, tmp_path: Path):
    """They are started again, and every row is there once."""
    run_job(other := replace(request_, directory=tmp_path / "here"), lambda progress: None)
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.2) and len(killed) < 3:
            for process in Path("/proc").iterdir():
                try:
                    name = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
                except OSError:
                    continue
                if name.startswith(b"ray::Worker") and int(process.name) not in killed:
                    killed.append(int(process.name))
                    os.kill(int(process.name), signal.SIGKILL)
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_job(request_, lambda progress: time.sleep(0.05), on_ray(actors=2))
    finally:
        done.set()
        killer.join()
    assert killed
    assert all(
        here.equals(there)
        for here, there in zip(parts(other.directory), parts(request_.directory), strict=True)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray warns of its own settings
def test_the_operator_in_ray_data(cluster: Any, tiny_bundle: Path):
    """`map_batches` with a pool of actors."""
    pytest.importorskip("ray.data")
    operator = TableEmbedder(str(tiny_bundle), place=Place(threads=1))
    table = pa.table({"id": list(range(20)), "text": [f"text {n}" for n in range(20)]})
    made = ray.data.from_arrow(table).map_batches(
        TableEmbedder,
        fn_constructor_kwargs={"model": operator.model, "place": operator.place},
        batch_format="pyarrow",
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found = sorted(made.take_all(), key=lambda row: row["id"])
    expected = operator(table).to_pylist()
    assert [row["id"] for row in found] == list(range(20))
    assert [list(row["dense"]) for row in found] == [row["dense"] for row in expected]


def test_an_error_of_an_actor_is_ours(cluster: Any, request_: Request):
    """With its own class and words, not a trace of a remote call."""
    with pytest.raises(ConfigError, match="has no prompt") as raised:
        run_job(
            replace(request_, wanted=Wanted(prompt_name="none such")), lambda progress: None, on_ray(actors=1)
        )
    assert "ray" not in str(raised.value)
