"""Small programs that the fault suite runs as children: what users do with the library in Python.

python soak_child.py make FOLDER | pipeline MODEL IN OUT | threads CONFIG IN OUT | lock STORE SECONDS
"""

import json
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def make(folder: str, labels: str) -> None:
    """A tiny random encoder, and a fused model with one LLM, whose URL the suite fills in."""
    import torch
    from labelfusion.configuration import LabelFusionConfig
    from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(c) for c in range(33, 127)), "##a"]
    pieces += [f"##{chr(c)}" for c in range(97, 123) if f"##{chr(c)}" not in pieces]
    words = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=32,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(f"{folder}/encoder")
    fused = LabelFusionConfig(
        encoder_config=config,
        id2label=dict(enumerate(labels.split(","))),
        problem_type="single_label_classification",
        llm_providers=[{"model": "m", "method": "json"}],
    )
    LabelFusionForSequenceClassification(fused).save_pretrained(f"{folder}/model")
    for name in ("encoder", "model"):
        tokenizer.save_pretrained(f"{folder}/{name}")


def pipeline(model: str, source: str, out: str) -> None:
    """Classify a stream of texts; what is answered is written at once."""
    from transformers import pipeline as make_pipeline

    import labelfusion  # noqa: F401

    task: Any = "labelfusion-classification"
    pipe: Any = make_pipeline(task, model=model, device="cpu")
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    with open(out, "w", encoding="utf-8") as file:
        answers = pipe((row["text"] for row in rows), batch_size=16, return_sources=True)
        for row, answer in zip(rows, answers, strict=True):
            answer = answer[0] if isinstance(answer, list) else answer
            file.write(json.dumps({**row, "answer": answer}, default=float) + "\n")
            file.flush()


def threads(config: str, source: str, out: str) -> None:
    """Several threads, each with a scorer of its own and all of the texts, on one store."""
    import numpy as np
    from labelfusion.scoring import build_scorer, score_texts

    given = json.loads(config)
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows]

    def work(number: int) -> Any:
        scorer = build_scorer(given["provider"], given["labels"], False, failure_limit=1000)
        turned = texts[number:] + texts[:number]
        scores = score_texts([scorer], turned)[0]
        return np.roll(scores, number, axis=0)

    with ThreadPoolExecutor(given["threads"]) as pool:
        found = list(pool.map(work, range(given["threads"])))
    with open(out, "w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            each = [None if np.isnan(scores[i]).any() else scores[i, 0].tolist() for scores in found]
            file.write(json.dumps({**row, "llm_scores": each}) + "\n")


def lock(store: str, seconds: str) -> None:
    """Hold the store's write lock."""
    connection = sqlite3.connect(store, timeout=5.0, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    time.sleep(float(seconds))
    connection.execute("COMMIT")


if __name__ == "__main__":
    programs: dict[str, Any] = {"make": make, "pipeline": pipeline, "threads": threads, "lock": lock}
    programs[sys.argv[1]](*sys.argv[2:])
