"""What every way into LabelFusion makes of files as people have them: input, read as, expected.

python benchmarks/reading.py                     # the table; two minutes at most, a tiny random encoder, no network
python benchmarks/reading.py --speed 1000000     # reading for `fit` beside pandas: seconds and memory
"""

import argparse
import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reading_cases import AB, CASES, TEXTS, Case, names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


class Told:
    """An LLM that is a function: it notes what it is asked."""

    def __init__(self, classes: int) -> None:
        self.texts: list[str] = []
        self.classes = classes

    def __call__(self, texts: list[str]) -> Any:
        self.texts += texts
        return np.full((len(texts), self.classes), 1 / self.classes)


def make_models(folder: Path, encoder: str) -> dict[str, Path]:
    """A saved model without an LLM, for `predict`, and one that asks a function, for the pipeline."""
    from labelfusion import AutoFusionClassifier

    made = {"predict": folder / "alone", "pipeline": folder / "asking"}
    for path, llm in zip(made.values(), (None, Told(2)), strict=True):
        clf: Any = AutoFusionClassifier(encoder, llm, encoder_training="probe", fusion="pool")
        clf.fit(TEXTS * 3, AB * 3).save_pretrained(path)
    return made


def check(case: Case, models: dict[str, Path], encoder: str, folder: Path) -> dict[str, tuple[str, bool]]:
    """What each way in makes of a case: `{entry: (read as, whether that is right)}`."""
    path = folder / case.file
    path.write_bytes(case.data if isinstance(case.data, bytes) else case.data.encode())
    found = {}
    for entry in case.entries:
        try:
            got = ENTRIES[entry](case, path, models, encoder, folder / entry)
        except Exception as error:
            right = case.labels is None and re.search(case.error, str(error)) is not None
            found[entry] = (f"error: {error}", right)
        else:
            expected = wanted(case, entry)
            found[entry] = (json.dumps(got, ensure_ascii=False), case.labels is not None and got == expected)
    return found


def wanted(case: Case, entry: str) -> dict[str, Any]:
    """What an entry should have read: it shows not all of it."""
    assert case.labels is not None
    known: dict[str, Any] = {"texts": case.texts, "labels": case.labels, "classes": names(case.labels)}
    shown = {"fit": ("texts", "classes"), "train": ("classes",), "score": ("texts", "labels")}.get(entry, ("texts",))
    return {name: sorted(set(known[name])) if (entry, name) == ("fit", "texts") else known[name] for name in shown}


def run_fit(case: Case, path: Path, models: dict[str, Path], encoder: str, out: Path) -> dict[str, Any]:
    from labelfusion import AutoFusionClassifier

    llm = Told(len(names(case.labels or AB)))
    clf: Any = AutoFusionClassifier(encoder, llm, encoder_training="probe", fusion="pool", **case.options)
    clf.fit(path)
    return {"texts": sorted(set(llm.texts)), "classes": [str(c) for c in clf.classes_]}


def command(*arguments: Any, case: Case) -> None:
    """Run a command; raises what it complains about."""
    from labelfusion.hub_scripts.cli import main

    told = io.StringIO()
    options = []
    for name, value in case.options.items():
        if arguments[0] != "predict" or name == "empty_texts":
            options += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(a) for a in (*arguments, *options)])
    if status:
        raise ValueError(told.getvalue().strip().splitlines()[-1])


def run_train(case: Case, path: Path, models: dict[str, Path], encoder: str, out: Path) -> dict[str, Any]:
    command("train", path, "--output-dir", out, "--encoder", encoder, "--encoder-training", "probe", case=case)
    return {"classes": [str(c) for c in json.loads((out / "auto_classifier.json").read_text())["classes"]]}


def run_score(case: Case, path: Path, models: dict[str, Path], encoder: str, out: Path) -> dict[str, Any]:
    from labelfusion.training.data import TableLayout, prepare
    from llm_server import LLMServer

    classes = names(case.labels or AB)
    target = out.with_suffix(".jsonl")
    with LLMServer(labels=classes) as server:
        asked = [
            "--llm",
            "m",
            "--api-base",
            server.url,
            "--method",
            "json",
            "--no-cache",
            "--labels",
            json.dumps(classes),
        ]
        command("score", path, target, *asked, case=case)
    layout = TableLayout(**{name: value for name, value in case.options.items() if name != "multi_label"})
    data = prepare(target, classes=classes, multi_label=case.options.get("multi_label", False), layout=layout)
    return {"texts": data.texts, "labels": data.names()}


def run_predict(case: Case, path: Path, models: dict[str, Path], encoder: str, out: Path) -> dict[str, Any]:
    target = out.with_suffix(".jsonl")
    command("predict", models["predict"], path, target, case=case)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    return {"texts": [row["text"] for row in rows if row["predicted_label"] is not None]}


def run_pipeline(case: Case, path: Path, models: dict[str, Path], encoder: str, out: Path) -> dict[str, Any]:
    from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
    from labelfusion.modeling_labelfusion.tokenizer_files import load_tokenizer
    from labelfusion.training.data.files import read_rows

    from labelfusion import LabelFusionPipeline

    source = str(models["pipeline"])
    model = LabelFusionForSequenceClassification.from_pretrained(source)
    pipe = LabelFusionPipeline(model=model, tokenizer=load_tokenizer(source), llm=Told(2), device="cpu")
    options = {name: value for name, value in case.options.items() if name == "empty_texts"}
    texts: list[str] = []

    def rows() -> Any:
        for row in read_rows(path):
            texts.append(row["text"])
            yield row

    answers = list(pipe(rows(), **options))
    return {"texts": [text for text, answer in zip(texts, answers, strict=True) if answer["label"] is not None]}


ENTRIES: dict[str, Callable[..., dict[str, Any]]] = {
    "fit": run_fit, "train": run_train, "score": run_score, "predict": run_predict, "pipeline": run_pipeline
}  # fmt: skip


def tiny_encoder(folder: Path) -> str:
    """A small random encoder with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocab = {piece: i for i, piece in enumerate([*pieces, *(f"##{p}" for p in pieces[4:])])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


READ = {
    "pandas": """
import pandas as pd
read = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}
import pyarrow.parquet, pyarrow.csv
started = measure()
table = read[kind](path)
""",
    "pandas, cells as they are": """
import pandas as pd
read = {
    "csv": lambda p: pd.read_csv(p, dtype=str, keep_default_na=False),
    "jsonl": lambda p: pd.read_json(p, lines=True, dtype=False, convert_dates=False),
    "parquet": pd.read_parquet,
}
import pyarrow.parquet, pyarrow.csv
started = measure()
table = read[kind](path)
""",
    "pandas, as lists": """
import pandas as pd
read = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}
import pyarrow.parquet, pyarrow.csv
started = measure()
lists = [column.tolist() for _, column in read[kind](path).items()]
""",
    "fit's data": """
from labelfusion.training.data import prepare
import pyarrow.parquet, pyarrow.csv
started = measure()
data = prepare(path)
""",
    "fit's data, with a list of texts": """
from labelfusion.training.data import prepare
import pyarrow.parquet, pyarrow.csv
started = measure()
texts = prepare(path).texts
""",
}
FILES = {
    "CSV": "d.csv",
    "CSV, cells of several lines": "lines/d.csv",
    "JSON Lines": "d.jsonl",
    "Parquet": "d.parquet",
}
MEASURED = """
import resource, sys, time
path, kind = sys.argv[1:]
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def measure():
    return time.perf_counter(), time.process_time(), peak()
%s
print(*(end - start for start, end in zip(started, measure())))
"""


def speed(rows: int, folder: Path, repeats: int = 5) -> None:
    """Print seconds, seconds of all cores and MB (more at the peak) of reading a file into `fit`'s data, and by pandas.

    Each is a process of its own; they take turns, and the medians count. In brackets the ratio to pandas.
    """
    import pandas as pd

    rng = np.random.default_rng(0)
    words = np.array(re.split(" ", "stocks fell after the central bank raised its rate, and analysts said nothing new"))
    texts = [" ".join(words[row]) for row in rng.integers(0, len(words), (rows, 20))]
    table = pd.DataFrame({"text": texts, "label": rng.choice(["World", "Sports", "Business"], rows)})
    table.to_json(folder / "d.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "d.parquet", index=False)
    table.to_csv(folder / "d.csv", index=False)
    (folder / "lines").mkdir()
    table.assign(text=table["text"].str.replace(", ", ",\n")).to_csv(folder / "lines" / "d.csv", index=False)
    del table, texts
    print(f"{rows:,} rows, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {repeats} runs\n")
    print(f"| file | {' | '.join(READ)} |\n| :-- |{' --: |' * len(READ)}")
    for name, path in FILES.items():
        runs: dict[str, list[list[float]]] = {way: [] for way in READ}
        for _ in range(repeats):
            for way, program in READ.items():
                arguments = [sys.executable, "-c", MEASURED % program, str(folder / path), Path(path).suffix[1:]]
                done = subprocess.run(arguments, capture_output=True, text=True, check=True)
                runs[way].append([float(x) for x in done.stdout.split()])
        found = {way: np.median(taken, axis=0) for way, taken in runs.items()}
        first = found["pandas"]
        form = "{:.2f} s ({:.1f}), {:.2f} s ({:.1f}), {:.0f} MB ({:.1f})"
        shown = (form.format(*np.ravel([taken, taken / first], "F")) for taken in found.values())
        print(f"| {name} | {' | '.join(shown)} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=int, metavar="ROWS", help="measure reading instead, with so many rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.speed:
            speed(args.speed, folder)
            return 0
        started, wrong = time.perf_counter(), 0
        encoder = tiny_encoder(folder / "encoder")
        models = make_models(folder, encoder)
        print("| input | entry | read as | expected | |\n| :-- | :-- | :-- | :-- | :-- |")
        for i, case in enumerate(CASES):
            here = folder / str(i)
            here.mkdir()
            for entry, (got, right) in check(case, models, encoder, here).items():
                expected = f"error: {case.error}" if case.labels is None else json.dumps(wanted(case, entry))
                shown = [text.replace("|", "\\|")[:100] for text in (case.name, entry, got, expected)]
                print(f"| {' | '.join(shown)} | {'right' if right else 'WRONG'} |", flush=True)
                wrong += not right
        print(f"\n{wrong} wrong, {time.perf_counter() - started:.0f} s, "
              f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")  # fmt: skip
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
