"""No more processors are handed out than there are, nobody starves, and a lone caller gets all."""

from __future__ import annotations

import threading
import time

from gte_runtime.device.semaphore import ProcessorSemaphore


def test_alone_gets_all():
    """And one who may not wait for all gets what is free."""
    semaphore = ProcessorSemaphore(4)
    assert semaphore.acquire(1, 4) == 4
    semaphore.release(4)
    assert semaphore.acquire(1, 1) == 1
    assert semaphore.acquire(1, 4) == 1
    assert semaphore.acquire(1, 2) == 2
    semaphore.release(4)
    assert semaphore.acquire(4, 4) == 4


def test_never_more_than_there_are():
    """Many threads that take and give at random."""
    semaphore, out, most, lock = ProcessorSemaphore(3), 0, 0, threading.Lock()

    def work(seed: int) -> None:
        nonlocal out, most
        for turn in range(50):
            least = 3 if (seed + turn) % 7 == 0 else 1
            taken = semaphore.acquire(least, 3 if (seed + turn) % 3 == 0 else least)
            with lock:
                out += taken
                most = max(most, out)
            time.sleep(0.0001)
            with lock:
                out -= taken
            semaphore.release(taken)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert (out, most) == (0, 3)


def test_who_waits_for_all_is_not_passed_by():
    """One that needs all comes before those who came later and need one."""
    semaphore, order = ProcessorSemaphore(2), []
    first = semaphore.acquire(1, 1)

    def wait(name: str, least: int) -> None:
        taken = semaphore.acquire(least, least)
        order.append(name)
        semaphore.release(taken)

    threads = []
    for name, least in (("all", 2), ("one", 1)):
        threads.append(threading.Thread(target=wait, args=(name, least)))
        threads[-1].start()
        while len(semaphore._waiting) < len(threads):
            time.sleep(0.001)
    semaphore.release(first)
    for thread in threads:
        thread.join(60)
    assert order == ["all", "one"]


def test_who_could_have_all_leaves_some_for_those_who_wait():
    """With four free processors and two callers waiting, the first takes what it needs, and both compute at
    once.
    """
    semaphore = ProcessorSemaphore(4)
    everything = semaphore.acquire(4, 4)
    taken: dict[str, int] = {}
    go = threading.Event()

    def run(name: str) -> None:
        taken[name] = semaphore.acquire(1, 4)
        go.wait(10)
        semaphore.release(taken[name])

    threads = []
    for name in ("first", "second"):
        threads.append(threading.Thread(target=run, args=(name,)))
        threads[-1].start()
        while len(semaphore._waiting) < len(threads):
            time.sleep(0.001)
    semaphore.release(everything)
    patience = time.monotonic() + 5
    while len(taken) < 2 and time.monotonic() < patience:
        time.sleep(0.001)
    at_once = dict(taken)
    go.set()
    for thread in threads:
        thread.join(60)
    assert at_once == {"first": 1, "second": 1}
    assert semaphore.acquire(1, 4) == 4
