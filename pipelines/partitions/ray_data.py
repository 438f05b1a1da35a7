"""The unit of work on Ray Data: https://docs.ray.io/en/latest/data/data.html.

Ray Data schedules, retries and scales; nothing of that is done here.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any

from ...scoring.session.limits import share_rates
from .partition import PredictWork
from .ray_leases import LeasedBudget, Lender, LentRates

if TYPE_CHECKING:
    import pyarrow as pa

    from .score_partition import ScoreWork

TABLE_ROWS = 4096


def import_ray() -> Any:
    """Import Ray with Ray Data.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"Running on a cluster needs Ray ({error}): pip install 'labelfusion-transformers[ray]'."
        ) from None
    return ray


def make_lender(limit: float) -> Any:
    """The actor that leases to all workers of this job."""
    return import_ray().remote(Lender).options(num_cpus=0, max_concurrency=1).remote(limit)


class WorkActor:
    """A worker: loads the model once, from its folder.

    Args:
        work: What to do.
        lender: Leases dollars and rates.
        limit: US dollars of all workers together.
        folder: That in which the run was started: relative paths begin there, where the machine has it.
    """

    def __init__(self, work: "PredictWork | ScoreWork", lender: Any, limit: float, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        share_rates(LentRates(lender))
        self.budget = LeasedBudget(lender, limit)
        self.worker: Any = work.open()

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """The table with its answers."""
        try:
            return self.worker.classify(table, self.budget)[0]
        finally:
            self.budget.settle_up()


def classify_dataset(
    dataset: Any,
    work: "PredictWork | ScoreWork",
    *,
    workers: int | tuple[int, int] = (1, 8),
    max_cost_usd: float | None = None,
    table_rows: int = TABLE_ROWS,
    **resources: Any,
) -> Any:
    """Classify a Ray data set, whatever it was read from and is written to.

    ```python
    >>> dataset = ray.data.read_parquet("s3://bucket/in")
    >>> classify_dataset(dataset, PredictWork("news-model")).write_parquet("s3://bucket/out")
    ```

    Args:
        dataset: A `ray.data.Dataset` with the text column.
        work: What to do; its model must be readable by every machine.
        workers: Number of workers, or the least and the most: the pool grows and shrinks.
        max_cost_usd: US dollars for all workers together, and the cost of one request for each.
        table_rows: Rows that a worker is given at once.
        **resources: Of a worker: `num_cpus` (default: 1), `num_gpus`, ... as for `Dataset.map_batches`.

    Returns:
        A lazy `ray.data.Dataset`.

    Raises:
        ValueError: For a share as the policy, which is exact over a whole data set only in `labelfusion predict` on
            folders.
    """
    ray = import_ray()
    policy = work.routing.get("llm_policy") if isinstance(work, PredictWork) else None
    if isinstance(policy, int | float):
        raise ValueError(
            f"`llm_policy` is the share {policy!r}, which takes two passes: use `labelfusion predict IN_DIR OUT_DIR "
            "--engine ray`, or 'auto', 'always' or 'never' here."
        )
    limit = float("inf") if max_cost_usd is None else max_cost_usd
    size = (workers, workers) if isinstance(workers, int) else workers
    return dataset.map_batches(
        WorkActor,
        batch_size=table_rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=size[0], max_size=size[1]),
        fn_constructor_kwargs={"work": work, "lender": make_lender(limit), "limit": limit, "folder": os.getcwd()},
        **{"num_cpus": 1, **resources},
    )
