#!/bin/sh
# Ray 2.60: after one local `ray.init()`, a cluster of this machine turns away the drivers that name its address.
#
# Expected: `ray start --head` and `ray.init(address="HOST:PORT")`, by the same user on the same machine, belong together.
# Seen: the first local `ray.init()` writes a token into ~/.ray/auth_token. From then on `ray start --head` wants that token
# of all who connect. `ray.init()` without an address finds the running cluster, sends the token and is let in. With the
# address the same process sends none, tries for some 20 s and raises a ConnectionError "Failed to connect to Ray cluster",
# which reads as if there were no cluster; the reason is in the text of its cause only. RAY_AUTH_MODE=token helps.
# A second surprise beside it: `ray.init()` means "this machine alone" only as long as no cluster runs there.
set -eu
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "ray==2.60.0" 2>/dev/null
export HOME="$folder/home" RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR="$folder"  # apart from any cluster of this machine
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_ADDRESS || true
mkdir "$HOME"
cd "$folder"
python="$folder/venv/bin/python"
port=$("$python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")

"$python" -c "import ray; ray.init(num_cpus=1, include_dashboard=False)" >log 2>&1 || { cat log; exit 1; }
[ -s "$HOME/.ray/auth_token" ] && echo "a local ray.init() wrote ~/.ray/auth_token"

setsid "$folder/venv/bin/ray" start --head --block --port "$port" --num-cpus 1 --include-dashboard false >log 2>&1 &
cluster=$!
trap 'kill -KILL -- -$cluster 2>/dev/null || true; rm -rf "$folder"' EXIT
tries=0
until grep -q "Ray runtime started" log; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { cat log; exit 1; }
  sleep 1
done
cat >connect.py <<'P'
import sys

import ray

try:
    ray.init(**({"address": sys.argv[1]} if sys.argv[1:] else {}), log_to_driver=False)
    print("connected")
except ConnectionError as error:
    print(type(error).__name__, "| cause names the token:", "InvalidAuthToken" in str(error.__cause__))
P
address=$(sed -n "s/.*--address='\([^']*\)'.*/\1/p" log | head -1)
named=$("$python" connect.py "$address" 2>/dev/null)
unnamed=$("$python" connect.py 2>/dev/null)
told=$(RAY_AUTH_MODE=token "$python" connect.py "$address" 2>/dev/null)
echo "with the address:                          $named"
echo "without the address:                       $unnamed"
echo "with the address and RAY_AUTH_MODE=token:  $told"
[ "$named" = "ConnectionError | cause names the token: True" ] && [ "$unnamed" = connected ] && [ "$told" = connected ]
