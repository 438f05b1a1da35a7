"""What the error replies of real servers and proxies mean, without a word of their text."""

from typing import Any

import pytest
from labelfusion.scoring.providers.error_replies import FILTERED, KEY, MODEL, TOO_LONG, read_error

SENT = ["model", "messages", "n", "temperature", "logprobs", "top_logprobs", "response_format"]

# Shapes seen: OpenAI, Azure, Gemini, llama.cpp, vLLM, a litellm proxy, FastAPI's validator, Text Generation Inference.
REPLIES: list[tuple[int, Any, str | None, str | None, str | None]] = [
    (400, {"code": "context_length_exceeded", "message": "..."}, "context_length_exceeded", None, TOO_LONG),
    (400, {"code": 400, "type": "exceed_context_size_error"}, "exceed_context_size_error", None, TOO_LONG),
    (400, {"object": "error", "code": 400, "message": "This model's maximum context length is 4096 tokens."},
     None, None, TOO_LONG),
    (413, {"error": "the prompt is too long for this model", "error_type": "validation"}, "validation", None, TOO_LONG),
    (400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
     "content_filter", None, FILTERED),
    (400, {"message": "The response was filtered due to the content management policy."}, None, None, FILTERED),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid.",
                      "details": [{"reason": "API_KEY_INVALID"}]}}], "API_KEY_INVALID", None, KEY),
    (400, {"code": 400, "type": "invalid_request_error", "message": "Field 'n': Value must be 1 <= value <= 4"},
     "invalid_request_error", "n", None),
    (400, {"code": "400", "param": None, "message": "OpenAIException - Unsupported parameter: 'top_logprobs'"},
     None, "top_logprobs", None),
    (422, {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]},
     None, "response_format", None),
    (400, {"param": "temperature", "code": "unsupported_value"}, "unsupported_value", "temperature", None),
    (404, {"code": "model_not_found", "message": "..."}, "model_not_found", None, MODEL),
    (404, {"message": "model 'm' not found", "type": "api_error"}, "api_error", None, MODEL),
    (404, {"message": "The model `m` does not exist.", "type": "NotFoundError"}, "NotFoundError", None, MODEL),
    (400, {"message": "{'error': '/chat/completions: Invalid model name passed in model=m.'}"}, None, None, MODEL),
    (400, {"detail": "Server is pinned to 'm'; requested 'some/model'."}, None, None, MODEL),
    (400, {"code": "400", "type": "no_db_connection", "message": "No connected db."}, "no_db_connection", None, KEY),
    (404, {"detail": "Not Found"}, None, None, None),
    (404, {"code": 404, "type": "not_found_error", "message": "File Not Found"}, "not_found_error", None, None),
    (429, {"code": "rate_limit_exceeded", "message": "too many tokens"}, "rate_limit_exceeded", None, None),
    (400, {"message": "no such thing as an 'n-gram' here"}, None, None, None),
    (400, "<html>", None, None, None),
    (400, None, None, None, None),
    (400, {"code": [4], "details": 3, "detail": {"loc": 1}, "innererror": 4, "error": 5}, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code", "param", "kind"), REPLIES)
def test_what_an_error_reply_means(
    status: int, body: Any, code: str | None, param: str | None, kind: str | None
) -> None:
    reply = read_error(status, body, "", SENT)
    assert (reply.code, reply.param, reply.kind) == (code, param, kind)


def test_a_parameter_that_was_not_sent_is_none() -> None:
    assert read_error(400, {"message": "`seed` is not supported"}, "", SENT).param is None


def test_the_message_of_the_client_is_read_where_the_body_tells_nothing() -> None:
    assert read_error(400, None, "litellm.ContextWindowExceededError: maximum context", SENT).kind == TOO_LONG
