"""The workers that run submissions: Dask's scheduler and workers, here by default, anywhere by address."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rnn2rag.errors import UserError
from rnn2rag.grading import worker

if TYPE_CHECKING:
    from distributed import Client

AHEAD = 2  # jobs at the scheduler for each that runs: enough to keep workers busy, few enough to hold in memory
_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.scheduler.allowed-failures": 10,  # how many workers may die while they run one submission
    "distributed.admin.log-format": "%(message)s",
    "distributed.admin.large-graph-warning-threshold": "1GB",  # a submission may bring many megabytes
    "distributed.comm.timeouts.connect": "10s",
}


class Fleet:
    """Workers for one run; use it as a context manager.

    jobs: how many submissions run at a time, in one worker process of this machine. scheduler: the address of a running
    Dask scheduler, whose workers are used instead; they need this package and nothing else of this machine. Raises
    UserError when nobody answers there, or no worker comes.
    """

    def __init__(self, jobs: int, scheduler: str | None = None) -> None:
        self.jobs = jobs
        self.scheduler = scheduler

    def __enter__(self) -> Fleet:
        import dask
        from distributed import Client, LocalCluster

        self._stack = contextlib.ExitStack()
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._stack.enter_context(dask.config.set(_SETTINGS))
        try:
            if self.scheduler:
                self._client = self._stack.enter_context(_connected(self.scheduler))
                self.jobs = self._slots()
            else:
                folder = tempfile.gettempdir()
                self._stack.enter_context(dask.config.set({"temporary-directory": folder}))
                cluster = LocalCluster(
                    n_workers=1,
                    threads_per_worker=self.jobs,
                    memory_limit=0,
                    security=True,  # nobody else on this machine may give the worker something to run
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    local_directory=folder,
                    silence_logs=logging.CRITICAL,
                )
                self._stack.enter_context(cluster)
                self._client = self._stack.enter_context(Client(cluster))
        except RuntimeError as error:  # of the one who watches over the worker
            self._stack.close()
            raise UserError(f"the worker did not start ({error}): run the same command again") from None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(Exception):  # what still runs ends with its worker anyway
            self._client.cancel(list(self._client.futures), force=True)
        self._stack.close()

    def warm(self, mode: str, optimizers: bool) -> None:
        """Let the workers that are there warm up for a kind of sandbox; nobody waits for it."""
        if mode != "none":
            self._warming = self._client.submit(worker.warm, mode, optimizers, pure=False)

    def run(self, jobs: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes | Exception]]:
        """Run jobs, each with a number, and yield the outcome of each as it comes: its bytes, or what went wrong.

        Jobs are taken from the iterator as workers become free: few are held in memory at a time.
        """
        from distributed import as_completed

        numbers: dict[str, int] = {}
        running = as_completed(with_results=False)

        def more(count: int) -> None:
            for number, job in _first(jobs, count):
                future = self._client.submit(worker.run, job, pure=False)
                numbers[future.key] = number
                running.add(future)

        more(AHEAD * self.jobs)
        for future in running:
            error = future.exception()
            yield numbers.pop(future.key), future.result() if error is None else error
            future.release()
            more(1)

    def _slots(self) -> int:
        """How many submissions the workers of a scheduler run at a time."""
        try:
            self._client.wait_for_workers(1, timeout=30)
        except TimeoutError:
            raise UserError(
                f"the scheduler at {self.scheduler} has no workers: start one with `dask worker {self.scheduler}`"
            ) from None
        return max(1, sum(self._client.nthreads().values()))


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=10)
    except (OSError, TimeoutError, TypeError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`") from None


def _first(iterator: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return
