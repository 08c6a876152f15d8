"""Lanes, buffers, CUDA graphs and what happens without memory, on arrays that lie on the CPU.

ONNX Runtime's own arrays and bindings are real here. Only a session that runs a packed graph is not: the
evaluator in numpy stands for CUDA's kernels, and remembers which graph id it was asked for. What ONNX
Runtime itself does with all this on a GPU is tested in tests/stand_in and tests/gpu.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden import Golden

from gte_runtime.building.build import build
from gte_runtime.building.judge import judge
from gte_runtime.bundle.directory import Bundle
from gte_runtime.device.cpu import CpuSession
from gte_runtime.device.graph import load_graph
from gte_runtime.device.lanes import Device, Lane, least_loaded
from gte_runtime.device.shapes import CAPTURED_SHAPES, Shape
from gte_runtime.errors import Cancelled, EngineError, NoThread, OutOfMemory, ProviderUnavailableError
from gte_runtime.inference.batch import Batch, make_batch
from gte_runtime.inference.halving import all_or_error, joined, run_halved
from gte_runtime.inference.session import Outputs
from gte_runtime.proof.graph_in_numpy import Evaluator
from gte_runtime.scoring import cut_and_normalise

WIDTH = 64


HERE = Device("cpu", 0)


@pytest.fixture(scope="module")
def packed(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The golden checkpoint in cuda-fp16."""
    target = tmp_path_factory.mktemp("packed") / "bundle"
    build(golden.checkpoint, target, graphs=golden.graphs, variants=("cuda-fp16", "cpu-fp32"))
    return Bundle.open(target)


class Evaluated:
    """A session of ONNX Runtime as far as a lane knows one; numpy runs, in the lane's thread."""

    def __init__(self, bundle: Bundle) -> None:
        variant = bundle.variant("cuda-fp16")
        self.evaluator = Evaluator(bundle.read(variant.graph), bundle.directory)
        self.variant = variant
        self.graph_ids: list[str | None] = []
        self.shapes: list[tuple[int, ...]] = []
        self.bindings: list[Any] = []
        self.threads: set[str] = set()
        self.failures: list[Exception] = []
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.leave.set()

    def get_inputs(self) -> list[Any]:
        types = {
            "input_ids": "int64",
            "position_ids": "int64",
            "cu_seqlens": "int32",
            "token_offset": "int32",
        }
        return [
            SimpleNamespace(name=name, type=f"tensor({types[name]})", shape=["n"])
            for name in self.variant.inputs
        ]

    def get_outputs(self) -> list[Any]:
        return [
            SimpleNamespace(name="cls", type="tensor(float)", shape=["n", WIDTH]),
            SimpleNamespace(name="token_weights", type="tensor(float)", shape=["n"]),
            SimpleNamespace(name="token_states", type="tensor(float16)", shape=[1, "n", WIDTH]),
        ]

    def io_binding(self) -> Any:
        made: dict[str, Any] = {}
        return SimpleNamespace(
            made=made, bind_ortvalue_input=made.__setitem__, bind_ortvalue_output=made.__setitem__
        )

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.entered.set()
        while not self.leave.wait(0.005):
            if options.terminate:
                raise RuntimeError("terminated")
        if self.failures:
            raise self.failures.pop(0)
        self.bindings.append(binding)
        self.threads.add(threading.current_thread().name)
        try:
            self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            self.graph_ids.append(None)
        feeds = {name: binding.made[name].numpy() for name in self.variant.inputs}
        self.shapes.append(feeds["token_offset"].shape)
        for name, value in self.evaluator.run(feeds).items():
            if name in binding.made:
                binding.made[name].update_inplace(value)


@pytest.fixture
def lane(packed: Bundle, request: pytest.FixtureRequest) -> Iterator[tuple[Lane, Evaluated]]:
    """A lane on the evaluator, with the buckets that the test asks for."""
    session = Evaluated(packed)
    opened = Lane(lambda: session, HERE, packed.variant("cuda-fp16"), WIDTH, getattr(request, "param", ()))
    opened.wait_until_loaded()
    yield opened, session
    session.leave.set()
    opened.close()


def texts(*lengths: int) -> Batch:
    rng = np.random.default_rng(sum(lengths))
    ids = [rng.integers(4, 300, length) for length in lengths]
    return make_batch(np.arange(len(ids)), ids, 128)


def run(lane: Lane, batch: Batch) -> Outputs:
    return lane.run(batch, object(), False)


def near(found: Outputs, expected: Outputs) -> None:
    # As directions: how far a single value of float16 strays, hangs on the BLAS that the machine's numpy
    # takes.
    apart = cut_and_normalise(found.cls) - cut_and_normalise(expected.cls)
    assert np.linalg.norm(apart, axis=1).max() <= 2e-3
    np.testing.assert_allclose(found.token_weights, expected.token_weights, atol=4e-3)


def test_a_lane_gives_what_the_graph_gives(lane: tuple[Lane, Evaluated], packed: Bundle):
    """Filled up, bound, run and cut out again: the same as the plain graph, for many shapes."""
    opened, session = lane
    judged = judge(packed.directory, packed.manifest, "cuda-fp16")
    for lengths in ([5], [2, 3, 4], [64], [63, 1 + 64], [7] * 17, [130, 2]):
        near(run(opened, texts(*lengths)), judged.run(texts(*lengths)))
    assert len(session.threads) == 1
    assert set(session.graph_ids) == {None}


def test_arrays_on_the_device_are_used_again(lane: tuple[Lane, Evaluated]):
    """Another run of the same rounded shape binds the very same arrays."""
    opened, session = lane
    run(opened, texts(5, 6))
    run(opened, texts(9, 8))
    first, second = (binding.made for binding in session.bindings)
    assert all(first[name] is second[name] for name in first)


@pytest.mark.parametrize("lane", [CAPTURED_SHAPES[:3]], indirect=True)
def test_small_requests_replay_and_others_do_not(lane: tuple[Lane, Evaluated], packed: Bundle):
    """Each bucket is captured once, at the start; requests take the smallest that holds them, and -1 where
    none does.
    """
    opened, session = lane
    judged = judge(packed.directory, packed.manifest, "cuda-fp16")
    assert session.graph_ids == ["1", "2", "3"]
    assert [captured.shape for captured in opened.captured] == list(CAPTURED_SHAPES[:3])
    assert all(captured.milliseconds > 0 for captured in opened.captured)
    for lengths, graph in (
        ([9], "1"),
        ([16], "1"),
        ([17], "2"),
        ([9, 9], "2"),
        ([40, 9], "3"),
        ([65], "-1"),
        ([8] * 8, "3"),
        ([3], "1"),
    ):
        near(run(opened, texts(*lengths)), judged.run(texts(*lengths)))
        assert session.graph_ids[-1] == graph, lengths
    assert session.shapes[:3] == [(bucket.texts, bucket.longest) for bucket in CAPTURED_SHAPES[:3]]


@pytest.mark.parametrize("lane", [(Shape(16, 2, 16),)], indirect=True)
def test_a_captured_graph_keeps_its_addresses(lane: tuple[Lane, Evaluated]):
    """A replay reads where the capture read: binding and arrays never change, whatever runs in between."""
    opened, session = lane
    captured = session.bindings[0]
    arrays = dict(captured.made)
    for length in (3, 100, 16, 40):
        run(opened, texts(length))
    replayed = [
        binding for binding, graph in zip(session.bindings, session.graph_ids, strict=True) if graph == "1"
    ]
    assert len(replayed) == 3
    assert all(binding is captured for binding in replayed)
    assert all(captured.made[name] is arrays[name] for name in arrays)


def test_failures_are_ours_and_the_lane_lives(lane: tuple[Lane, Evaluated]):
    """ONNX Runtime's words for no memory become OutOfMemory, others EngineError; the next run is fine."""
    opened, session = lane
    expected = run(opened, texts(5)).cls
    for words, kind in (
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=secret", OutOfMemory),
        ("Failed to allocate memory for requested buffer of size 9", OutOfMemory),
        ("Available memory of 36568576 is smaller than requested bytes of 50331648", OutOfMemory),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=secret", EngineError),
    ):
        session.failures.append(RuntimeError(words))
        with pytest.raises(kind) as caught:
            run(opened, texts(5))
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
    assert np.array_equal(run(opened, texts(5)).cls, expected)


@pytest.mark.parametrize("most", [3, 2, 1])
def test_without_memory_a_batch_is_halved_until_it_fits(lane: tuple[Lane, Evaluated], most: int):
    """What does not fit runs in halves that give memory back; the rows are the same, in the same order."""
    opened, _ = lane
    batch = texts(5, 6, 40, 3, 9)
    expected = run(opened, batch)
    asked: list[tuple[int, bool]] = []

    def attempt(part: Batch, halved: bool) -> Outputs:
        asked.append((len(part.rows), halved))
        if len(part.rows) > most:
            raise OutOfMemory("out of memory during a run")
        return opened.run(part, object(), halved)

    near(all_or_error(run_halved(attempt, batch, lambda error: True)), expected)
    assert [halved for _, halved in asked] == [False] + [True] * (len(asked) - 1)
    assert sum(rows for rows, _ in asked if rows <= most) == 5


def test_runs_wait_for_their_turn_and_count(lane: tuple[Lane, Evaluated]):
    """What waits in a lane is its load; a run that is stopped while it waits never starts, and the others go
    on.
    """
    opened, session = lane
    session.leave.clear()
    session.entered.clear()
    owner = object()
    results: dict[str, Any] = {}

    def work(name: str, batch: Batch, whose: object) -> None:
        try:
            results[name] = opened.run(batch, whose, False)
        except Cancelled as error:
            results[name] = error

    running = threading.Thread(target=work, args=("first", texts(10), object()))
    running.start()
    assert session.entered.wait(10)
    waiting = threading.Thread(target=work, args=("second", texts(20), owner))
    waiting.start()
    while opened.load != 30:
        time.sleep(0.001)
    opened.stop(owner)
    session.leave.set()
    running.join(10)
    waiting.join(10)
    assert isinstance(results["second"], Cancelled)
    assert results["first"].cls.shape == (1, WIDTH)
    assert opened.load == 0


def test_ctrl_c_stops_a_run_and_the_lane_lives(lane: tuple[Lane, Evaluated]):
    """The main thread waits outside of ONNX Runtime, so the signal reaches it at once."""
    opened, session = lane
    session.leave.clear()
    session.entered.clear()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident

    def interrupt() -> None:
        session.entered.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run(opened, texts(5))
    finally:
        signal.signal(signal.SIGINT, before)
    session.leave.set()
    assert run(opened, texts(5)).cls.shape == (1, WIDTH)


def test_close_stops_what_runs(lane: tuple[Lane, Evaluated]):
    """Runs in flight and later ones are Cancelled; close returns when the thread is gone."""
    opened, session = lane
    session.leave.clear()
    session.entered.clear()
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            run(opened, texts(5))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            outcome.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert session.entered.wait(10)
    opened.close()
    worker.join(10)
    assert isinstance(outcome[0], Cancelled)
    with pytest.raises(Cancelled):
        run(opened, texts(5))


def test_a_lane_that_does_not_load(packed: Bundle):
    """The failure reaches the one who waits, and the lane can be closed."""

    def broken() -> Any:
        raise ProviderUnavailableError("cuda", ("cuda", "cpu"), "there is no GPU 3")

    opened = Lane(broken, HERE, packed.variant("cuda-fp16"), WIDTH, ())
    with pytest.raises(ProviderUnavailableError, match="no GPU 3"):
        opened.wait_until_loaded()
    opened.close()
    with pytest.raises(Cancelled):
        run(opened, texts(5))


def test_work_goes_where_least_waits(packed: Bundle):
    """Of two lanes the one with fewer tokens; of equals the first."""
    lanes: list[Any] = [SimpleNamespace(load=load) for load in (30, 10, 10)]
    assert least_loaded(lanes) is lanes[1]


def test_padded_graphs_run_in_lanes_too(tiny_bundle: Path):
    """portable-fp32 in a lane, with ONNX Runtime itself and its binding, against the plain session."""
    bundle = Bundle.open(tiny_bundle)
    variant = bundle.variant("portable-fp32")
    load = partial(load_graph, bundle.read(variant.graph), tiny_bundle, variant, "cpu", 1)
    opened = Lane(load, HERE, variant, WIDTH, ())
    opened.wait_until_loaded()
    plain = CpuSession(bundle.read(variant.graph), tiny_bundle, variant, WIDTH)
    for lengths in ([5], [2, 30, 4], [64, 64], [2, 30, 4]):
        found, expected = run(opened, texts(*lengths)), plain.run(texts(*lengths))
        np.testing.assert_allclose(found.cls, expected.cls, atol=1e-5)
        np.testing.assert_allclose(found.token_weights, expected.token_weights, atol=1e-5)
    opened.close()
    plain.close()


@pytest.mark.parametrize("lane", [(), (Shape(texts=8, tokens=64, longest=32),)], indirect=True)
def test_states_of_tokens_are_fetched_when_asked_for(lane: tuple[Lane, Evaluated], packed: Bundle):
    """As float32, one row a token, with captured graphs or without; other runs do not bind them."""
    opened, session = lane
    judged = judge(packed.directory, packed.manifest, "cuda-fp16")
    batch = texts(5, 9, 3)
    found = opened.run(batch, object(), False, states=True)
    assert found.token_states.dtype == np.float32
    np.testing.assert_allclose(found.token_states, judged.run(batch, states=True).token_states, atol=2e-2)
    assert not len(run(opened, batch).token_states)
    assert "token_states" not in session.bindings[-1].made
    assert [joined([found, found]).token_states.shape] == [(2 * 17, WIDTH)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_whose_thread_has_ended(lane: tuple[Lane, Evaluated]):
    """Runs that wait for it, and all later ones, raise instead of waiting for ever."""
    opened, _ = lane
    kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
    run(opened, texts(5))
    # Delivered when the thread takes the next job: it ends there, and nobody sets the job's result.
    kill(ctypes.c_ulong(opened._thread.ident or 0), ctypes.py_object(SystemExit))
    for _ in range(2):
        with pytest.raises(EngineError, match="has ended"):
            run(opened, texts(5))
    assert opened.load == 0


def test_a_lane_without_a_thread(packed: Bundle, monkeypatch: pytest.MonkeyPatch):
    """An error of ours, and no lane."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(NoThread):
        Lane(lambda: Evaluated(packed), HERE, packed.variant("cuda-fp16"), WIDTH, ())
