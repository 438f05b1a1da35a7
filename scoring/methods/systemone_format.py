"""System One, the other format of decision APIs: a `state`, and questions by name with `criteria`.

Served as `POST /v1/systemone` (Ollama, llama.cpp, `transformers serve` and others), and what Transformers' decision
pipeline reads. The questions here are OpenAI's; names and states are those that litellm gives to the same questions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_QUESTIONS = 64  # of one request


def systemone_questions(questions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Questions of `POST /v1/decisions` (`choice` and `predicate`) in System One's format, by name or number."""
    return {str(q.get("name", i)): _systemone_question(q) for i, q in enumerate(questions)}


def systemone_state(given: str | Sequence[Mapping[str, Any]]) -> str:
    """The `input` of `POST /v1/decisions`, a text or messages, as a state."""
    return given if isinstance(given, str) else "\n\n".join(str(message["content"]) for message in given)


def decision_answers(answers: Mapping[str, Any], questions: Sequence[Mapping[str, Any]]) -> list[Any]:
    """System One's answers as those of `POST /v1/decisions`, in the order of `questions`; others behind them."""
    names = list(systemone_questions(questions))
    ordered = {name: answers[name] for name in names if name in answers} | dict(answers)
    return [_decision_answer(name, answer) for name, answer in ordered.items()]


def _systemone_question(question: Mapping[str, Any]) -> dict[str, Any]:
    if question["type"] == "predicate":
        return {"type": "noul", "instructions": question["instructions"]}
    criteria = {choice["value"]: choice.get("description") for choice in question["choices"]}
    return {"type": "choice", "instructions": question["instructions"], "criteria": criteria}


def _decision_answer(name: str, answer: Any) -> Any:
    if not isinstance(answer, dict):
        return answer
    if answer.get("type") == "noul":
        return {"type": "predicate", "name": name, "probability": answer.get("noul")}
    shares = answer.get("probabilities")
    if answer.get("type") == "choice" and isinstance(shares, dict):
        return {"type": "choice", "probabilities": [{"value": v, "probability": p} for v, p in shares.items()]}
    return answer
