#!/bin/sh
# With gradient accumulation, Transformers' Trainer multiplies the loss and the gradients of its own text classifiers.
#
# Guess: `gradient_accumulation_steps=4` with batches of 2 trains as one batch of 8 does, as the documentation says.
# Seen with transformers 5.24.0 and BERT, DistilBERT and RoBERTa for sequence classification: the logged loss and the norm
# of the gradients are four times those of the batch of 8; with BERT also for several labels and for regression. The Trainer
# takes `**kwargs` in a model's `forward` for a promise to divide by `num_items_in_batch`, and no longer divides by the number
# of steps. These classes swallow the argument; nothing divides. No warning. AdamW hides a constant factor, but clipping
# (`max_grad_norm=1`, the default) sets in at a quarter of the norm, SGD takes four times the step, and the training loss
# no longer compares with the validation loss.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import Trainer, TrainingArguments

small = {"vocab_size": 40, "max_position_embeddings": 40}
bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
distil = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16,
          "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
ids = torch.randint(5, 40, (8, 6), generator=torch.Generator().manual_seed(1))
labels = {
    "single_label_classification": torch.arange(8) % 3,
    "multi_label_classification": (torch.arange(24).reshape(8, 3) % 2).float(),
    "regression": torch.arange(8).float(),
}


def first_step(name, options, problem, size, steps):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **small, **options, num_labels=1 if problem == "regression" else 3, problem_type=problem
    )
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y} for i, y in zip(ids, labels[problem])]
    arguments = TrainingArguments(
        sys.argv[1], per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1, logging_steps=1,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    return log["loss"], float(log["grad_norm"])


ratios = []
for name, options in {"Bert": bert, "DistilBert": distil, "Roberta": bert}.items():
    for problem in labels if name == "Bert" else ["single_label_classification"]:
        whole, parts = first_step(name, options, problem, 8, 1), first_step(name, options, problem, 2, 4)
        ratios += [parts[0] / whole[0], parts[1] / whole[1]]
        print(f"{name}, {problem}: 1 x 8 rows: loss {whole[0]:.3f}, gradient {whole[1]:.3f}; "
              f"4 x 2 rows: loss {parts[0]:.3f}, gradient {parts[1]:.3f}", file=sys.stderr)
sys.exit(not all(3.9 < ratio < 4.1 for ratio in ratios))
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/run.py" "$folder" 2>"$folder/log" >/dev/null && changed=0 || changed=1
grep "rows: loss" "$folder/log" || cat "$folder/log"
exit $changed
