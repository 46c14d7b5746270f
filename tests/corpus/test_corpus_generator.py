"""`Generator` in the frameworks that its documentation names: what it finds by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora import ROWS, saved_model

transformers = pytest.importorskip("transformers", reason="of the extra `transformers`")
if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("runs are served from Transformers 5.0 on", allow_module_level=True)

from el_attention.corpus import Generator, Recipe  # noqa: E402

TEXTS = [row["text"] for row in ROWS[:6]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """Of a tiny model."""
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    return Recipe(str(saved_model(tmp_path_factory.mktemp("model"))), options, device="cpu")


def expected(recipe: Recipe) -> list[list[str]]:
    return [*Generator(recipe)({"text": TEXTS})["hypotheses"], []]


def test_it_maps_datasets(recipe) -> None:
    datasets = pytest.importorskip("datasets", reason="no dependency of this package")
    data = datasets.Dataset.from_dict({"text": [*TEXTS, None]})
    found = data.map(Generator(recipe), batched=True, batch_size=4)
    assert list(found["hypotheses"]) == expected(recipe)
    assert found["reason"][-1] == "expected a text, got NoneType"
    assert found["text"][-1] is None


@pytest.mark.slow
def test_it_maps_data_of_ray(recipe, monkeypatch) -> None:
    ray = pytest.importorskip("ray", reason="of the extra `ray`")
    data = pytest.importorskip("ray.data", reason="of the extra `ray`")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = data.from_items([{"row": n, "text": text} for n, text in enumerate([*TEXTS, None])])
        found = rows.map_batches(
            Generator,
            fn_constructor_args=[recipe],
            batch_size=4,
            compute=data.ActorPoolStrategy(size=1),
        )
        results = sorted(found.take_all(), key=lambda row: row["row"])
    finally:
        ray.shutdown()
    assert [list(map(str, row["hypotheses"])) for row in results] == expected(recipe)
    assert results[-1]["reason"] == "expected a text, got NoneType"


@pytest.mark.slow
def test_it_predicts_for_spark(recipe, monkeypatch) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="no dependency of this package")
    functions = pytest.importorskip("pyspark.ml.functions", reason="no dependency of this package")
    types = pytest.importorskip("pyspark.sql.types")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    generator = Generator(recipe)

    def make() -> Any:
        def predict(texts: Any) -> Any:
            return np.array([row[0] for row in generator({"text": texts})["hypotheses"]])

        return predict

    try:
        spark = sql.SparkSession.builder.master("local[1]").getOrCreate()
    except Exception as error:  # as where Java is missing
        pytest.skip(f"Spark does not start: {error}")
    try:
        udf = functions.predict_batch_udf(make, return_type=types.StringType(), batch_size=4)
        frame = spark.createDataFrame([(text,) for text in TEXTS], ["text"])
        rows = frame.select(udf("text").alias("found")).collect()
    finally:
        spark.stop()
    assert [row.found for row in rows] == [best for best, _ in expected(recipe)[:-1]]
