"""The engine of a job on Ray: actors with a model each, and this process, which reads rows and writes parts.

The journal is that of a job on one machine, so a job may be begun here and finished there. An actor that dies
is started again and its tables are embedded again; a part is written once, when all of it has arrived.

It uses actors and not Ray Data, which joins and splits blocks by their size; see
docs/decisions/jobs.md. The operator itself works in Ray Data's `map_batches`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..catalog.locate import locate
from ..errors import ConfigError
from ..format import manifest
from .operator import TableEmbedder
from .run import Engine
from .tables import arrow

TABLES_PER_ACTOR = 2
"""One is tokenized while the other one runs. More would only take memory."""


def on_ray(address: str | None = None, actors: int | None = None) -> Engine:
    """The engine on a cluster.

    Args:
        address: of a cluster, as `ray.init` takes it; None is the one that runs already, or a local one.
        actors: how many models are opened; None is as many as the cluster has room for.

    Raises:
        ConfigError: the package ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'gte-runtime[ray]'") from None

    def run(operator: TableEmbedder, tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        operator.close()  # the actors have models of their own
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        pool = _actors(ray, operator, actors)
        try:
            yield from _parts(ray, pool, tables)
        finally:
            for actor in pool:
                ray.kill(actor)

    return run


class Worker:
    """What an actor holds: one model."""

    def __init__(self, operator: TableEmbedder, identity: str, shipped: list[Any]) -> None:
        """Open the model: at its own place if the bundle is there, too, and otherwise from `shipped`, a list
        of a reference to the bundle's files in the object store, or of nothing."""
        path = Path(operator.model)
        if shipped and (not (path / manifest.FILE).is_file() or _identity(path) != identity):
            import ray

            self._files = tempfile.TemporaryDirectory(prefix="gte-bundle-")
            path = Path(self._files.name)
            for name, content in ray.get(shipped[0]).items():
                (path / name).write_bytes(content)
        self._operator = replace(operator, model=str(path))
        self._operator.opened()

    def embed(self, table: Any) -> Any:
        return self._operator(table)


def _identity(bundle: Path) -> str:
    return hashlib.sha256((bundle / manifest.FILE).read_bytes()).hexdigest()


def _actors(ray: Any, operator: TableEmbedder, count: int | None) -> list[Any]:
    """The actors. On a GPU each has one; on CPUs each has as many processors as the engine has threads."""
    gpu = operator.place.provider != "cpu"
    threads = operator.place.threads or 1
    resources = ray.cluster_resources()
    if count is None:
        count = int(resources.get("GPU", 0) if gpu else resources.get("CPU", 1) // threads)
    if count < 1:
        kind = "GPUs" if gpu else f"actors with {threads} processors"
        raise ConfigError(f"the cluster has no room for {kind}")
    bundle = locate(operator.model)
    operator = replace(operator, model=str(bundle.resolve()), place=replace(operator.place, threads=threads))
    shipped = []
    if len(ray.nodes()) > 1:
        shipped = [ray.put({path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()})]
    kind = ray.remote(
        num_cpus=threads,
        num_gpus=1 if gpu else 0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=TABLES_PER_ACTOR,
    )(Worker)
    return [kind.remote(operator, _identity(bundle), shipped) for _ in range(count)]


def _parts(ray: Any, pool: list[Any], tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Whole parts, in the order in which they are complete."""
    pa = arrow()
    under_way: dict[Any, tuple[int, int, int]] = {}  # reference -> (actor, part, position in the part)
    busy = [0] * len(pool)
    found: dict[int, dict[int, Any]] = defaultdict(dict)
    counts: dict[int, int] = defaultdict(int)
    last, more = -1, True
    while more or under_way:
        while more and len(under_way) < TABLES_PER_ACTOR * len(pool):
            number, table = next(tables, (-1, None))
            more = table is not None
            if more:
                actor = busy.index(min(busy))
                under_way[pool[actor].embed.remote(table)] = actor, number, counts[number]
                busy[actor] += 1
                counts[number] += 1
                last = number
        if under_way:
            (reference, *_), _ = ray.wait(list(under_way), num_returns=1)
            actor, number, position = under_way.pop(reference)
            busy[actor] -= 1
            try:
                found[number][position] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
        for number in [one for one in found if len(found[one]) == counts[one] and (one != last or not more)]:
            each = found.pop(number)
            yield number, pa.concat_tables([each[position] for position in sorted(each)])
