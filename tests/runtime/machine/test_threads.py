"""How many threads a run gets: never more than the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gte_runtime.machine.threads
from gte_runtime.errors import ConfigError, NoThread, OutOfMemory
from gte_runtime.machine.threads import VARIABLES, cgroup_quota, named_limits, thread_count


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 processors without control groups; their files appear in this directory."""
    for name in ("CGROUP_V2", "CGROUP_V1_QUOTA", "CGROUP_V1_PERIOD"):
        monkeypatch.setattr(gte_runtime.machine.threads, name, tmp_path / name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def v2(machine: Path, text: str) -> None:
    (machine / "CGROUP_V2").write_text(text, encoding="utf-8")


def v1(machine: Path, quota: str, period: str) -> None:
    (machine / "CGROUP_V1_QUOTA").write_text(quota, encoding="utf-8")
    (machine / "CGROUP_V1_PERIOD").write_text(period, encoding="utf-8")


def test_all_that_affinity_grants():
    """Without a quota and a wish, each processor that the process may run on."""
    assert cgroup_quota() is None
    assert thread_count() == 8


def test_affinity_of_a_few(monkeypatch: pytest.MonkeyPatch):
    """A process that was pinned has only its own processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert thread_count() == 2
    assert thread_count(4) == 2


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch):
    """macOS has no affinity; then the machine's processors count, and one where even that is unknown."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert thread_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_count() == 1


@pytest.mark.parametrize(
    ("text", "quota", "threads"),
    [
        ("max 100000\n", None, 8),
        ("200000 100000\n", 2.0, 2),
        ("150000 100000\n", 1.5, 2),
        ("10000 100000\n", 0.1, 1),
        ("0 100000\n", 0.0, 1),
        ("1600000 100000\n", 16.0, 8),
    ],
)
def test_a_quota_of_version_two(machine: Path, text: str, quota: float | None, threads: int):
    """`docker run --cpus 1.5` on a machine of today: the next whole number of threads."""
    v2(machine, text)
    assert cgroup_quota() == quota
    assert thread_count() == threads


@pytest.mark.parametrize(
    ("quota", "period", "expected", "threads"),
    [
        ("-1", "100000", None, 8),
        ("0", "100000", None, 8),
        ("250000\n", "100000\n", 2.5, 3),
        ("50000", "100000", 0.5, 1),
    ],
)
def test_a_quota_of_version_one(machine: Path, quota: str, period: str, expected: float | None, threads: int):
    """The same on an older machine."""
    v1(machine, quota, period)
    assert cgroup_quota() == expected
    assert thread_count() == threads


def test_version_two_comes_first(machine: Path):
    """Where both are mounted, version two holds."""
    v2(machine, "300000 100000")
    v1(machine, "100000", "100000")
    assert thread_count() == 3
    v2(machine, "max 100000")
    assert thread_count() == 8


@pytest.mark.parametrize("text", ["", "max", "a b", "1 2 3", "100000 x", "-"])
def test_a_quota_that_is_none(machine: Path, text: str):
    """A file that is not understood limits nothing; version one is looked at then."""
    v2(machine, text)
    assert thread_count() == 8
    v1(machine, "400000", "100000")
    assert thread_count() == 4


@pytest.mark.parametrize(("quota", "period"), [("", ""), ("x", "100000"), ("100000", "0"), ("100000", "")])
def test_an_older_quota_that_is_none(machine: Path, quota: str, period: str):
    """The same for version one, a period of zero included."""
    v1(machine, quota, period)
    assert thread_count() == 8


def test_a_period_of_zero(machine: Path):
    """A period of zero, which no kernel writes, limits nothing in version two either."""
    v2(machine, "100000 0")
    assert thread_count() == 8


def test_files_that_cannot_be_read(machine: Path):
    """A directory in place of the file, as an odd sandbox may have it, limits nothing."""
    (machine / "CGROUP_V2").mkdir()
    (machine / "CGROUP_V1_QUOTA").mkdir()
    assert thread_count() == 8


@pytest.mark.parametrize(("wish", "threads"), [(1, 1), (3, 3), (8, 8), (9, 8), (10**9, 8)])
def test_a_wish(wish: int, threads: int):
    """A wish lowers the number and never raises it."""
    assert thread_count(wish) == threads


def test_the_smallest_holds(machine: Path):
    """Affinity, quota and wish together."""
    v2(machine, "500000 100000")
    assert [thread_count(wish) for wish in (None, 2, 5, 7)] == [5, 2, 5, 5]


@pytest.mark.parametrize("wish", [0, -1, 1.5, "2", True, False, [], float("nan")], ids=repr)
def test_a_wish_that_is_none(wish: object):
    """B-61: a number of threads is a positive integer."""
    with pytest.raises(ConfigError) as caught:
        thread_count(wish)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"threads is {wish!r}; expected an integer of at least 1, or None")


def test_this_machine(monkeypatch: pytest.MonkeyPatch):
    """On the machine at hand: at least one, at most its processors."""
    monkeypatch.undo()
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


def test_the_environment_limits_where_the_caller_does_not(monkeypatch: pytest.MonkeyPatch):
    """GTE_THREADS goes before OMP_NUM_THREADS, of which the first of a list counts; an argument before both.
    None of them raises what affinity grants."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert (thread_count(), thread_count(5)) == (3, 5)
    monkeypatch.setenv("GTE_THREADS", " 2 ")
    assert (thread_count(), thread_count(5)) == (2, 5)
    monkeypatch.setenv("GTE_THREADS", "")
    assert thread_count() == 3
    monkeypatch.setenv("GTE_THREADS", "64")
    assert thread_count() == 8


@pytest.mark.parametrize("name", ["GTE_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "x,2", "99999999999999999999", "\u0663"])
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name} is .* unset it$"):
        thread_count()
    assert thread_count(2) == 2


def test_limits_of_the_system_are_named():
    """No more threads, or no memory: errors of this package that say which limit to raise."""
    for said in ("can't start new thread", "[ONNXRuntimeError] : 6 : pthread_create failed, error code: 11"):
        with pytest.raises(NoThread, match=r"could not be started .*raise the limit"), named_limits():
            raise RuntimeError(said)
    with pytest.raises(OutOfMemory, match="not enough memory"), named_limits():
        raise MemoryError
    for other in (RuntimeError("another"), OutOfMemory("of a run")):
        with pytest.raises(type(other), match=str(other)), named_limits():
            raise other
