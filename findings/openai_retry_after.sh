#!/bin/sh
# The openai client does not retry at all where `Retry-After` is above two minutes.
#
# Guess: with `max_retries=2` a 429 is tried three times; a `Retry-After` that is longer than the client wants to wait is
# cut, or replaced by its own backoff.
# Seen with openai 3.57.0: with `Retry-After: 1` three requests leave, with `Retry-After: 121` one. Quotas of a minute or an
# hour (some gateways say 300 or 3600) turn every retry off, whatever `max_retries` says.
# Exits 0 if it is so, 1 if the client has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openai==3.57.0 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import http.server
import sys
import threading

import openai


class Busy(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []
    wait = "1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Busy.asked.append(self.wait)
        self.send_response(429)
        self.send_header("retry-after", self.wait)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=2)
counts = {}
for wait in ("1", "121"):
    Busy.wait = wait
    Busy.asked.clear()
    try:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    except openai.RateLimitError:
        counts[wait] = len(Busy.asked)
print("requests by Retry-After:", counts)
sys.exit(counts != {"1": 3, "121": 1})
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
