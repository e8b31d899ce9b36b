"""The engine that runs tasks on a Ray cluster."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tst_lightning.data.preparing.amounts import OnAdvance
from tst_lightning.data.preparing.engines import Function, Outcomes
from tst_lightning.errors import UserError

if TYPE_CHECKING:
    import ray

_OBJECT_STORE_BYTES = 100_000_000
"""Of a local cluster: tasks hand over reports, not text."""


class Ray:
    """Tasks of one CPU each, on the cluster at RAY_ADDRESS, else on a local one of as many CPUs as workers.

    Core tasks and ``ray.wait``, not Ray Data: its map would have to know every task beforehand, and how much text
    a task may still take is known only when it starts.
    """

    def __init__(self, workers: int | None) -> None:
        """
        Args:
            workers: Tasks at a time. None: as many as the cluster has CPUs.
        """
        self.workers = workers

    def run(self, function: Function, tasks: Iterator[Any], on_advance: OnAdvance) -> Outcomes:
        import ray

        on_terminate = signal.getsignal(signal.SIGTERM)  # Ray puts its own there and leaves it
        started = self._connect()
        running: dict[ray.ObjectRef, Any] = {}
        try:
            remote = ray.remote(num_cpus=1)(_run_one)
            shared = ray.put(function)
            places = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            while True:
                while len(running) < places and (task := next(tasks, None)) is not None:
                    running[remote.remote(shared, task)] = task
                if not running:
                    return
                (finished,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(finished)
                yield task, _outcome(finished, task)
        finally:
            for reference in running:
                with suppress(Exception):  # whatever is wrong with the cluster, the reason is known already
                    ray.cancel(reference, force=True)
            if started:
                ray.shutdown()
                with suppress(ValueError):  # not in the main thread, where Ray cannot have changed it either
                    signal.signal(signal.SIGTERM, on_terminate)

    def _connect(self) -> bool:
        """Be connected to a cluster; returns whether this was done here."""
        import ray

        if ray.is_initialized():
            return False
        address = os.environ.get("RAY_ADDRESS")
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                ray.init(address="auto" if address == "auto" else address, **quiet)
            else:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                ray.init(
                    address="local", num_cpus=self.workers, include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES, **quiet,
                )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"cannot use Ray at '{address or 'this machine'}' ({reason}): correct RAY_ADDRESS, start the "
                "cluster with `ray start --head`, or use --engine processes"
            ) from error
        return True


def require_ray() -> None:
    """
    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(
            "engine 'ray' needs a package that is not installed: pip install 'tst-lightning[ray]', "
            "or use --engine processes"
        ) from error


def _run_one(function: Function, task: Any) -> tuple[Any, UserError | None]:
    try:
        return function(task, lambda advance: None), None
    except UserError as error:
        return None, UserError(str(error))


def _outcome(reference: "ray.ObjectRef", task: Any) -> Any:
    import ray

    try:
        report, error = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a fault of the program: with the worker's traceback
    except ray.exceptions.RayError as lost:
        reason = " ".join(str(lost).split())[:300]
        return UserError(
            f"the Ray worker for {task} died ({reason}): what is finished is kept; run the same command again"
        )
    return report if error is None else error
