"""The metrics as modules of Hugging Face `evaluate`."""

from pathlib import Path

import numpy as np
import pytest
from labelfusion.evaluation.metrics import classification_metrics

evaluate = pytest.importorskip("evaluate")


@pytest.mark.parametrize("config_name", ["default", "multilabel"])
def test_combined_modules_give_the_metrics_of_the_package(config_name: str, tmp_path: Path) -> None:
    from labelfusion.evaluation.evaluate_modules import F1, Accuracy, Calibration

    rng = np.random.default_rng(0)
    several = config_name == "multilabel"
    p = rng.dirichlet(np.ones(3), 40).astype(np.float32)
    labels = rng.integers(0, 2, (40, 3)) if several else rng.integers(0, 3, 40)
    thresholds = [0.3, 0.4, 0.2] if several else None
    modules = [m(config_name, cache_dir=str(tmp_path)) for m in (Accuracy, F1, Calibration)]
    combined = evaluate.combine(modules)
    found = combined.compute(predictions=p, references=labels, thresholds=thresholds)
    assert found == pytest.approx(classification_metrics(p, labels, several, thresholds), abs=1e-6)
    evaluate.save(tmp_path / "result.json", **found)
    assert (tmp_path / "result.json").exists()


def test_modules_take_batches_and_refuse_other_configs(tmp_path: Path) -> None:
    from labelfusion.evaluation.evaluate_modules import Accuracy

    module = Accuracy(cache_dir=str(tmp_path))
    module.add_batch(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 0])
    module.add(prediction=[0.1, 0.9], reference=1)
    assert module.compute() == {"accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="multilabel"):
        Accuracy("binary")
