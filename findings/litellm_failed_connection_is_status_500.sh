#!/bin/sh
# litellm says of a connection that failed that the server answered with status 500, for some providers and not for others.
#
# Guess: where nobody listens, `acompletion` raises `litellm.APIConnectionError` for every provider, as `openai` does.
# Seen with litellm 1.110.2: for groq, mistral and anthropic it raises `InternalServerError` with `status_code` 500; for
# gemini `APIConnectionError`. Code that tells "my network is down" (nothing sent, nothing billed, no use in asking again) from
# "the provider has a fault" by the exception's class or status is wrong for three of the four. What tells it: a
# `ConnectError` among the causes.
# Exits 0 if it is so, 1 if litellm has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q litellm==1.110.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import asyncio
import os
import socket
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

litellm.suppress_debug_info = True
with socket.socket() as closed:  # a port that nobody listens on
    closed.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{closed.getsockname()[1]}"


async def main() -> dict[str, tuple[str, int | None, bool]]:
    seen = {}
    for model in ("groq/m", "mistral/m", "anthropic/m", "gemini/m"):
        try:
            await litellm.acompletion(
                model=model,
                api_base=url,
                api_key="none",
                messages=[{"role": "user", "content": "hello"}],
                max_retries=0,
                num_retries=0,
            )
        except Exception as error:
            cause, causes = error, []
            while cause is not None:
                causes.append(type(cause).__name__)
                cause = cause.__cause__ or cause.__context__
            seen[model] = (type(error).__name__, getattr(error, "status_code", None), "ConnectError" in causes)
    return seen


seen = asyncio.run(main())
for model, told in seen.items():
    print(model, *told)
wrong = [model for model in ("groq/m", "mistral/m", "anthropic/m") if seen[model] == ("InternalServerError", 500, True)]
sys.exit(not (len(wrong) == 3 and seen["gemini/m"][0] == "APIConnectionError"))
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
