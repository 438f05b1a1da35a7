"""The unit of work in Spark's `mapInArrow`."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from labelfusion.pipelines.partitions.partition import PredictWork
from llm_server import LLMServer

pytest.importorskip("pyspark", reason="pyspark is not installed")
TEXTS = [f"{'a movie' if i % 3 else 'the team'} w{i % 10} w{i // 10}" for i in range(60)]


def test_batches_keep_the_schema_that_is_foretold(saved_model: Callable[..., Path]) -> None:
    work = PredictWork(str(saved_model()), routing={"llm_policy": "never"}, device="cpu", top_k=2, with_sources=True)
    table = pa.table({"id": list(range(60)), "text": TEXTS})
    out = pa.Table.from_batches(work.map_batches(iter(table.to_batches(max_chunksize=25))))
    assert out.schema.equals(work.schema(table.schema))
    assert out["id"].to_pylist() == list(range(60))
    assert out.drop(["sources"]).equals(work.open().classify(table)[0].drop(["sources"]))


@pytest.mark.slow
def test_map_in_arrow(saved_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (apt-get install default-jre-headless)")
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    with LLMServer(labels=[f"class{i}" for i in range(3)]) as server:
        llm: dict[str, Any] = {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 4}
        folder = str(saved_model(llm_providers=[llm]))
        work = PredictWork(folder, scoring={"store": str(tmp_path / "scores.sqlite")}, device="cpu")
        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        spark = builder.config("spark.driver.memory", "512m").config("spark.sql.shuffle.partitions", "2").getOrCreate()
        try:
            table = pa.table({"id": list(range(60)), "text": TEXTS})
            table_in = spark.createDataFrame(list(enumerate(TEXTS)), ["id", "text"]).repartition(2)
            answers = table_in.mapInArrow(work.map_batches, from_arrow_schema(work.schema(table.schema)))
            rows = {row["id"]: row["predicted_label"] for row in answers.collect()}
        finally:
            spark.stop()
        assert server.paid.total() == 60
        expected = work.open().classify(table)[0]["predicted_label"].to_pylist()
    assert [rows[i] for i in range(60)] == expected
