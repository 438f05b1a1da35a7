"""Where litellm sends the requests of the providers that a model from the Hub may name."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from labelfusion.scoring.providers.consent import KNOWN_PROVIDERS

HOSTS = """
import asyncio, json, os, socket, sys
from asyncio import base_events
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
import litellm

asked = []
def refuse(host, *args, **kwargs):
    asked.append(host)
    raise socket.gaierror("no network here")
async def refuse_too(self, host, *args, **kwargs):
    refuse(host)
socket.getaddrinfo, base_events.BaseEventLoop.getaddrinfo = refuse, refuse_too

async def main():
    found = {}
    for name, keys in json.loads(sys.argv[1]).items():
        os.environ |= dict.fromkeys(keys, "key")
        asked.clear()
        try:
            model = f"{name}/some-model"
            options = {"timeout": 5, "max_retries": 0, "num_retries": 0}
            await litellm.acompletion(model=model, messages=[{"role": "user", "content": "x"}], **options)
        except Exception:
            pass
        found[name] = sorted(set(asked))
        for key in keys:
            del os.environ[key]
    print("RESULT" + json.dumps(found))
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("litellm") is None, reason="needs litellm")
def test_known_providers_are_where_they_are_said_to_be() -> None:
    """litellm asks the host that is written down here for each of them, by a key from the variables written down."""
    keys = json.dumps({name: known.keys[:1] for name, known in KNOWN_PROVIDERS.items()})
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", HOSTS, keys], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(done.stdout.partition("RESULT")[2])
    assert found == {name: [known.host] for name, known in KNOWN_PROVIDERS.items()}
