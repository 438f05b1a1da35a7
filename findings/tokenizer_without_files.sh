#!/bin/sh
# Transformers makes a tokenizer for a folder that holds none, and every word is unknown to it.
#
# Guess: `AutoTokenizer.from_pretrained` of a folder with a model's config (and weights) but without any file of a
# tokenizer raises an error, as in Transformers 4 ("Can't load tokenizer for ...").
# Seen with transformers 5.24.0: it returns a `BertTokenizer` with a vocabulary of five special tokens. Each word of each
# text becomes [UNK], with nothing logged: a classifier that is trained with it learns the lengths of the texts.
# Exits 0 if it is so, 1 if Transformers has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 2>/dev/null
mkdir "$folder/encoder"
cat > "$folder/run.py" <<'PYTHON'
import sys

from transformers import AutoTokenizer, BertConfig

BertConfig().save_pretrained(sys.argv[1])
try:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
except Exception as error:
    raise SystemExit(f"it is an error now: {type(error).__name__}") from None
words = tokenizer.convert_ids_to_tokens(tokenizer("A late goal decided the match.")["input_ids"])
print(type(tokenizer).__name__, len(tokenizer), sorted(tokenizer.get_vocab()), words)
assert set(words) == {"[CLS]", "[UNK]", "[SEP]"}, "it knows words now"
assert len(tokenizer) == 5
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/run.py" "$folder/encoder"
