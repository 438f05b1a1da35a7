"""The users of `benchmarks/serving.py`, for locust: seven of eight requests hold one text, the others ten."""

import itertools
import os
from pathlib import Path

from locust import FastHttpUser, task

TEXTS = Path(os.environ["SERVING_TEXTS"]).read_text(encoding="utf-8").splitlines()
number = itertools.count()


class Client(FastHttpUser):
    """Sends the next request as soon as it has the answer to the last one."""

    connection_timeout, network_timeout = 10.0, 60.0

    @task(7)
    def one(self) -> None:
        self.send(1)

    @task(1)
    def ten(self) -> None:
        self.send(10)

    def send(self, count: int) -> None:
        """No text twice: the LLM's answers do not come from the score store."""
        texts = [f"{TEXTS[i % len(TEXTS)]} ({i})" for i in itertools.islice(number, count)]
        with self.client.post("/predict", json={"inputs": texts}, name=f"{count}", catch_response=True) as reply:
            answers = reply.json() if reply.status_code == 200 else []
            if [set(answer) for answer in answers] == [{"label", "score"}] * count:
                reply.success()
            else:
                reply.failure(f"status {reply.status_code}, {len(answers)} answers")
