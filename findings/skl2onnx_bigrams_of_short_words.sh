#!/bin/sh
# The ONNX file of a TF-IDF classifier with word pairs gives other classes than scikit-learn, because of words such as "a".
#
# Guess: `to_onnx` of a `TfidfVectorizer(ngram_range=(1, 2))` with default options makes a graph with the same results, or
# refuses. With single words (`ngram_range=(1, 1)`) the results are the same.
# Seen with skl2onnx 1.20.0, scikit-learn 1.9.1 and onnxruntime 1.32.0: scikit-learn leaves out words of one letter before it
# pairs words: "not a good film" has the pair "not good". The graph has another pattern for words, and pairs "not a" and
# "a good", which the vocabulary lacks: each pair across "a" or "I", or across the last letter of "don't", is lost. So is a
# negation: the graph takes "not a good film" for praise, although the text is in the training set. No warning is given.
# Exits 0 if it is so, 1 if the libraries have changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q skl2onnx==1.20.0 scikit-learn==1.9.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

texts = ["a good film", "a good plot", "not a bad film", "not a bad plot"]
texts += ["a bad film", "a bad plot", "not a good film", "not a good plot"]
labels = ["+"] * 4 + ["-"] * 4
found = {}
for longest in (1, 2):
    vectorizer = TfidfVectorizer(ngram_range=(1, longest))
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=100)).fit(texts, labels)
    options = {id(pipeline): {"zipmap": False}, id(vectorizer): {"locale": "C"}}  # the locale en_US may not be installed
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        graph = to_onnx(pipeline, initial_types=[("text", StringTensorType([None, 1]))], options=options)
    told = [str(w.message) for w in told if not issubclass(w.category, (DeprecationWarning, FutureWarning))]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names, probabilities = session.run(None, {"text": np.array(texts).reshape(-1, 1)})
    apart = float(np.abs(probabilities - pipeline.predict_proba(texts)).max())
    other = int((names != pipeline.predict(texts)).sum())
    found[longest] = apart < 1e-6, other > 0, told
    print(f"up to {longest} word(s): probabilities up to {apart:.4f} apart, {other} of {len(texts)} "
          f"texts get another class, {len(told)} warnings; {' '.join(pipeline.predict(texts))} -> {' '.join(names)}")
sys.exit(found != {1: (True, False, []), 2: (False, True, [])})
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
