#!/bin/sh
# Transformers reads DeBERTa-v3's `spm.model` without the normalisation that the file holds.
#
# Guess: a tokenizer made from a SentencePiece file cuts texts as SentencePiece does with that file, as in Transformers 4.
# Seen with transformers 5.24.0 and sentencepiece 0.2.3: `DebertaV2Tokenizer` takes pieces and scores from the file and
# leaves out its normaliser (NFKC, the default of the trainer, and DeBERTa-v3's): full-width letters, ligatures and
# fractions are normalised by SentencePiece, and unknown or cut to pieces in Transformers. Nothing is logged.
# Exits 0 if it is so, 1 if Transformers has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 sentencepiece==0.2.3 protobuf==7.36.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import random
import sys
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
random.seed(0)
words = "the market was good and a fine goal won match for team new phone stocks fell after bank".split()
lines = [" ".join(random.choices(words, k=8)) for _ in range(500)]
names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_prefix=str(folder / "spm"), vocab_size=40, minloglevel=2,
    pad_id=0, bos_id=1, eos_id=2, unk_id=3, **names,
)  # fmt: skip
(folder / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
(folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm"})
)
itself = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
tokenizer = AutoTokenizer.from_pretrained(folder)
pieces = {}
for text in ["the fine market", "the ﬁne market", "the ｍａｒｋｅｔ"]:
    pieces[text] = itself.encode(text, out_type=str), tokenizer.tokenize(text)
    print(text, *pieces[text], sep="\n  ")
plain, *others = pieces.values()
assert plain[0] == plain[1], "plain text is cut alike"
assert all(a != b for a, b in others), "Transformers normalises as the file says now"
PYTHON
mkdir "$folder/deberta"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/run.py" "$folder/deberta"
