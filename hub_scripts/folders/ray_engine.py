"""Runs jobs on the workers of a Ray cluster. Only what is to be done travels: each worker reads and writes itself."""

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...pipelines.partitions.partition import Counts, Share
from ...pipelines.partitions.ray_data import WorkActor, import_ray, make_lender
from ...scoring.score_batch import ScoringError
from .jobs import Job, perform
from .pieces import Piece

if TYPE_CHECKING:
    from ...scoring.budget import Budget

LOCAL_STORE_BYTES = 100_000_000  # of a cluster of this machine alone: rows do not travel
NO_TOKEN = (
    "has refused this process for want of its token. Set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN to what "
    "`ray get-auth-token` prints on a machine of the cluster, or copy its file ~/.ray/auth_token."
)
ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "OSError": OSError, "ScoringError": ScoringError}


class JobActor(WorkActor):
    """A worker that does jobs."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:  # type: ignore[override]
        """Do the jobs of a batch. What is wrong with one of them is a row, for a clear error at the driver."""
        numbers, counts, errors = [], [], []
        for number, text in zip(batch["number"], batch["job"], strict=True):
            numbers.append(int(number))
            try:
                counts.append(json.dumps(asdict(perform(self.worker, _job(json.loads(str(text))), self.budget))))
                errors.append("")
            except (ValueError, OSError, ScoringError) as error:
                kind = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
                counts.append("{}")
                errors.append(json.dumps([kind, str(error)]))
            finally:
                self.budget.settle_up()
        return {"number": numbers, "counts": counts, "error": errors}


class RayEngine:
    """Workers of a cluster, each with the model; Ray Data schedules, retries and scales.

    Args:
        work: A `PredictWork` or `ScoreWork`.
        budget: Limit in US dollars, and what earlier runs have spent.
        address: Of the cluster; None: this machine alone.
        workers: The most of them; None: as many as the cluster has CPUs, or GPUs.

    Raises:
        ImportError: If Ray is not installed.
        OSError: If there is no such cluster.
    """

    def __init__(self, work: Any, budget: "Budget", address: str | None, workers: int | None) -> None:
        self.work, self.budget = work, budget
        self._ray = ray = import_ray()
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # the command shows its own progress, in rows
        ray.data.DataContext.get_current().enable_progress_bars = False
        self._ours = not ray.is_initialized()
        if self._ours:
            alone: dict[str, Any] = {"num_cpus": workers, "object_store_memory": LOCAL_STORE_BYTES}
            try:  # without "local", Ray joins a cluster that runs on this machine
                ray.init(address=address or "local", log_to_driver=False, include_dashboard=None if address else False,
                         **({} if address else alone))  # fmt: skip
            except ConnectionError as error:
                if "AuthenticationError" in str(error.__cause__):
                    raise OSError(f"The Ray cluster at `address` {address!r} {NO_TOKEN}") from None
                raise OSError(f"There is no Ray cluster at `address` {address!r}: {error}") from None
        found = ray.cluster_resources()
        gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
        self._each = {"num_cpus": 1, "num_gpus": 1} if gpus else {"num_cpus": 1}
        self.workers = max(1, min(workers or gpus or cpus, gpus or cpus))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Counts]]:
        """Do the jobs, in any order. A job whose worker dies is done by another one."""
        if not jobs:
            return
        data = self._ray.data
        left = self.budget.limit - self.budget.spent
        lender = make_lender(left)
        items = [{"number": number, "job": json.dumps(asdict(job))} for number, job in enumerate(jobs)]
        before = self.budget.spent
        done = data.from_items(items, override_num_blocks=len(items)).map_batches(
            JobActor,
            batch_size=1,
            compute=data.ActorPoolStrategy(
                min_size=1, max_size=min(self.workers, len(items)), max_tasks_in_flight_per_actor=2
            ),
            fn_constructor_kwargs={"work": self.work, "lender": lender, "limit": left, "folder": os.getcwd()},
            **self._each,
        )
        for row in done.iter_rows():
            counts = Counts(**json.loads(row["counts"]))
            if math.isfinite(left):  # what is leased may be spent
                self.budget.spent = before + self._ray.get(lender.committed.remote())
                self.budget.settle(0.0, 0.0)
            else:
                self.budget.settle(0.0, counts.cost_usd)
            if row["error"]:
                kind, said = json.loads(row["error"])
                raise ERRORS[kind](said)
            yield int(row["number"]), counts

    def close(self) -> None:
        """Leave the cluster; end it if it is ours."""
        if self._ours:
            self._ray.shutdown()


def _job(data: dict[str, Any]) -> Job:
    share = data["share"] and Share(**data["share"])
    return Job(Piece(**data["piece"]), data["marker"], data["encoded"], share)
