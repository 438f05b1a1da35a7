"""One fit of `fit.py`, in a process of its own: reads a task in JSON, prints one line of JSON with its figures.

It imports what its way needs and nothing of the others, because SetFit and AutoGluon have environments of their own.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

Predict = Callable[[Sequence[str]], Any]  # class indices


def labelfusion(task: dict[str, Any], **options: Any) -> Predict:
    from labelfusion import AutoFusionClassifier

    clf: Any = AutoFusionClassifier(task["encoder"], None, seed=task["seed"], **options)
    clf.fit((task["texts"], [str(label) for label in task["labels"]]))
    return lambda texts: [int(label) for label in clf.predict(texts)]


def setfit(task: dict[str, Any], **options: Any) -> Predict:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(task["folder"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, seed=task["seed"], report_to="none", **options)
        rows = Dataset.from_dict({"text": task["texts"], "label": task["labels"]})
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return lambda texts: [int(label) for label in model.predict(list(texts))]


def autogluon(task: dict[str, Any]) -> Predict:
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    folder = tempfile.TemporaryDirectory()  # it holds the model
    # As strings: of few rows with numbers it makes a regression, without asking.
    rows = pd.DataFrame({"text": task["texts"], "label": [str(label) for label in task["labels"]]})
    threads = int(os.environ["OMP_NUM_THREADS"])
    model = TabularPredictor("label", path=folder.name, verbosity=0).fit(rows, num_cpus=threads, num_gpus=0)

    def predict(texts: Sequence[str]) -> Any:
        with folder:
            return [int(label) for label in model.predict(pd.DataFrame({"text": texts}))]

    return predict


def tf_idf(task: dict[str, Any]) -> Predict:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000, random_state=task["seed"]))
    return model.fit(task["texts"], task["labels"]).predict


WAYS: dict[str, Callable[[dict[str, Any]], Predict]] = {
    "default": labelfusion,
    "frozen": lambda task: labelfusion(task, encoder_training="probe"),
    "setfit": setfit,
    "setfit, 500 steps": lambda task: setfit(task, max_steps=500),
    "autogluon": autogluon,
    "tf-idf": tf_idf,
}


def peak_mb() -> float:
    """Of the resident memory of this process; `ru_maxrss` would count that of the process which started it."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        task = json.load(file)
    resource.setrlimit(resource.RLIMIT_CPU, (task["limit_s"], task["limit_s"] + 5))
    out, sys.stdout = sys.stdout, sys.stderr  # SetFit prints
    started, before = time.perf_counter(), time.process_time()
    predict = WAYS[task["way"]](task)
    wall, processor = time.perf_counter() - started, time.process_time() - before
    peak = peak_mb()
    right = [int(got == label) for got, label in zip(predict(task["test_texts"]), task["test_labels"], strict=True)]
    versions = {}
    for name in ("torch", "transformers", "setfit", "sentence-transformers", "autogluon.tabular", "scikit-learn"):
        try:
            from importlib.metadata import version

            versions[name] = version(name)
        except ImportError:
            pass
    figures = {"right": sum(right), "tested": len(right), "processor_s": processor, "wall_s": wall, "peak_mb": peak}
    print(json.dumps({**figures, "load": os.getloadavg()[0], "versions": versions}), file=out)


if __name__ == "__main__":
    main()
