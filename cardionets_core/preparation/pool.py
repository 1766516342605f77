"""Many items through worker processes: bounded memory, and a worker that dies costs one item.

A decoder written in C may crash, and a file may ask for more memory than there is: the kernel then
ends the worker, and `concurrent.futures` gives up all that was under way. What was under way is
therefore run again, each item alone in a process; the one that ends that process too is it.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from multiprocessing.forkserver import ensure_running
from typing import Generic, TypeVar

from cardionets_core.environment import variables

Work = TypeVar("Work")
Done = TypeVar("Done")

_CHUNK = 4
_CHUNKS_PER_WORKER = 2
"""Items per message and messages per worker that are under way; together they bound the memory."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Each worker computes with one thread: the workers are many."""

_ITEMS_PER_WORKER = 2000
"""A worker ends after so many: decoders that leak do not add up over a hundred thousand files."""


class WorkerPool(Generic[Work, Done]):
    """Runs `act(item)` for many items in other processes.

    Args:
        act: a function of a module; must not raise for what a file can cause.
        crashed: gives the result of an item whose worker died.
        workers: processes; 1 runs in one process beside this one, too.
        start: called once in every worker.
    """

    def __init__(
        self,
        act: Callable[[Work], Done],
        crashed: Callable[[Work], Done],
        *,
        workers: int,
        start: Callable[[], None],
    ) -> None:
        self._act, self._crashed, self._start = act, crashed, start
        self._act_module = getattr(act, "func", act).__module__
        self._workers = workers

    def run(self, items: Iterable[Work]) -> Iterator[Done]:
        """Yield the result of every item, in the order of the items."""
        todo = iter(items)
        under_way: deque[tuple[list[Work], Future[list[Done]]]] = deque()
        pool = self._open(self._workers)
        try:
            while True:
                while len(under_way) < self._workers * _CHUNKS_PER_WORKER:
                    chunk = list(islice(todo, _CHUNK))
                    if not chunk:
                        break
                    under_way.append((chunk, self._submit(pool, chunk)))
                if not under_way:
                    return
                chunk, future = under_way.popleft()
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    pool.shutdown(wait=True, cancel_futures=True)
                    chunks = [chunk, *(waiting for waiting, _ in under_way)]
                    under_way.clear()
                    yield from self._one_by_one([item for part in chunks for item in part])
                    pool = self._open(self._workers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, workers: int) -> ProcessPoolExecutor:
        # A forked child of a process with threads can hang, and a spawned one imports for seconds:
        # children of the fork server, which has one thread and has imported already, do neither.
        context = get_context("forkserver")
        context.set_forkserver_preload([self._act_module])
        with variables(_ONE_THREAD), _deaf_to_interrupts():
            ensure_running()
        return ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=self._start,
            max_tasks_per_child=max(1, _ITEMS_PER_WORKER // _CHUNK),
        )

    def _submit(self, pool: ProcessPoolExecutor, chunk: list[Work]) -> Future[list[Done]]:
        try:
            return pool.submit(_act_on_all, self._act, chunk)
        except BrokenProcessPool as error:
            broken: Future[list[Done]] = Future()
            broken.set_exception(error)
            return broken

    def _one_by_one(self, items: list[Work]) -> Iterator[Done]:
        pool = self._open(1)
        try:
            for item in items:
                try:
                    yield from pool.submit(_act_on_all, self._act, [item]).result()
                except BrokenProcessPool:
                    pool.shutdown(wait=True)
                    yield self._crashed(item)
                    pool = self._open(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let a process that is started meanwhile, and its children, not see Ctrl-C.

    The terminal sends it to all of them; this process ends them in order, and says so once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _act_on_all(act: Callable[[Work], Done], chunk: list[Work]) -> list[Done]:
    return [act(item) for item in chunk]
