"""The routes of decision APIs, so that a server can be the LLM of another model: `/v1/decisions` and `/v1/systemone`.

A question is about the model's own classes: a `choice` among all of them, or for each class whether it applies
(`predicate`, in System One's format `noul`), under the name of the class.
"""

from typing import Any

from .request_bodies import DecisionsBody, RequestError, SystemOneBody


def decisions_text(body: DecisionsBody) -> tuple[str, str]:
    """The text, and its field. Of several messages, the last one is the text: those before are for an LLM."""
    if isinstance(body.input, str):
        return body.input, "input"
    return body.input[-1].content, f"input[{len(body.input) - 1}].content"


def check_decisions(body: DecisionsBody, classes: list[str], multi_label: bool) -> None:
    """Refuse questions that the model has no answer to.

    Raises:
        RequestError: Naming the question.
    """
    for i, question in enumerate(body.questions):
        if question.type == "choice":
            offered = [choice.value for choice in question.choices or []]
            _check_choice(f"questions[{i}].choices", offered, classes, multi_label)
        else:
            _check_predicate(f"questions[{i}].name", question.name, classes)


def decisions_reply(body: DecisionsBody, scores: dict[str, float]) -> list[dict[str, Any]]:
    """The answers, from the probability of each class."""
    answers: list[dict[str, Any]] = []
    for question in body.questions:
        if question.type == "choice":
            shares = [{"value": c.value, "probability": scores[c.value]} for c in question.choices or []]
            answers.append({"type": "choice", "name": question.name, **_best(scores), "probabilities": shares})
        else:
            probability = scores[str(question.name)]
            answers.append({"type": "predicate", "name": question.name, "probability": probability})
    return answers


def check_systemone(body: SystemOneBody, classes: list[str], multi_label: bool) -> None:
    """As `check_decisions`."""
    for name, question in body.questions.items():
        if question.type == "choice":
            _check_choice(f"questions.{name}.criteria", list(question.criteria or {}), classes, multi_label)
        else:
            _check_predicate(f"questions.{name}", name, classes)


def systemone_reply(body: SystemOneBody, scores: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The answers by the names of the questions."""
    answers: dict[str, dict[str, Any]] = {}
    for name, question in body.questions.items():
        if question.type == "choice":
            shares = {value: scores[value] for value in question.criteria or {}}
            answers[name] = {"type": "choice", **_best(scores), "probabilities": shares}
        else:
            answers[name] = {"type": "noul", "noul": scores[name]}
    return answers


def _best(scores: dict[str, float]) -> dict[str, Any]:
    best = max(scores, key=scores.__getitem__)
    return {"choice": best, "confidence": scores[best]}


def _check_choice(field: str, offered: list[str], classes: list[str], multi_label: bool) -> None:
    if multi_label:
        raise RequestError(field, f"`{field}`: several classes may apply to a text; ask whether each one does.")
    if sorted(offered) != sorted(classes):
        raise RequestError(field, f"`{field}` must be the classes of this model: {', '.join(classes)}.")


def _check_predicate(field: str, name: str | None, classes: list[str]) -> None:
    if name not in classes:
        raise RequestError(field, f"`{field}` must name a class of this model: {', '.join(classes)}.")
