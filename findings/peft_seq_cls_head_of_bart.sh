#!/bin/sh
# PEFT's recipe for sequence classification neither trains nor saves the head of Transformers' own BART classifier.
#
# Guess: `LoraConfig(task_type="SEQ_CLS")` makes the classification head trainable and puts it into the adapter, whatever
# model class of Transformers it wraps. An adapter that is loaded onto the same base model predicts as before.
# Seen with peft 0.21.2 and Transformers 5.24.0: PEFT looks for modules named `classifier` or `score`. BART (and T5) call
# theirs `classification_head`: it stays frozen at its random start, is not in the adapter file, and there is no warning.
# Another process draws another head, so that the adapter gives other probabilities after it was saved and loaded. For
# RoBERTa, whose head is called `classifier`, both work.
# Exits 0 if it is so, 1 if the libraries have changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q peft==0.21.2 transformers==5.24.0 torch==2.13.0 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

folder = sys.argv[1]
small = {"vocab_size": 40, "num_labels": 3, "max_position_embeddings": 40}
bart = BartConfig(
    **small, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=16, decoder_ffn_dim=16,
)
roberta = RobertaConfig(**small, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
ids = torch.tensor([[0, 7, 8, 9, 2]])
found = {}
for name, kind, config in (
    ("BART", BartForSequenceClassification, bart),
    ("RoBERTa", RobertaForSequenceClassification, roberta),
):
    torch.manual_seed(0)
    base = kind(config)
    backbone = {k: v for k, v in base.state_dict().items() if "classif" not in k}  # what a pretrained checkpoint holds
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "query"]))
    told = [str(w.message) for w in told if "classif" in str(w.message)]
    trained = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    model.save_pretrained(f"{folder}/{name}-adapter")
    with safe_open(f"{folder}/{name}-adapter/adapter_model.safetensors", "pt") as file:
        saved = [key for key in file.keys() if "lora" not in key]
    torch.manual_seed(1)  # another process
    other = kind(config)
    other.load_state_dict(backbone, strict=False)
    loaded = PeftModel.from_pretrained(other, f"{folder}/{name}-adapter")
    with torch.inference_mode():
        before, after = (m.eval()(input_ids=ids).logits.softmax(-1) for m in (model, loaded))
    change = float((before - after).abs().max())
    found[name] = (len(trained), len(saved), change > 1e-4, len(told))
    print(f"{name}: {len(trained)} trainable and {len(saved)} saved tensors of the head, probabilities change by {change:.4f}")
sys.exit(found["BART"] != (0, 0, True, 0) or found["RoBERTa"][0] == 0 or found["RoBERTa"][1] == 0 or found["RoBERTa"][2])
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/run.py" "$folder" 2>/dev/null
