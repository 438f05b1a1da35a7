"""`LabelFusionConfig` and `LLMProvider`: JSON round trips, validation, refusal of secrets."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import DecisionRule, LabelFusionConfig, LLMProvider, Task
from labelfusion.configuration.secrets import redact, refuse_secrets
from transformers import AutoConfig, RobertaConfig

SECRETS = {
    "openai": "sk-proj-Ab12Cd34Ef56Gh78Ij90",
    "deepseek": "sk-0123456789abcdef0123456789abcdef",
    "google": "AIzaSyA1234567890abcdefghijklmnopqrstu",
    "hugging face": "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "groq": "gsk_AbCdEfGhIjKlMnOpQrStUvWx",
    "xai": "xai-AbCdEfGhIjKlMnOpQrStUvWx",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w",
    "bearer": "Bearer abcdef0123456789",
    "address": "https://user:hunter2secret@example.org/v1",
    "query": "https://example.org/v1?api_key=hunter2secret",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow",
}
SECRET = SECRETS["openai"]
BAD_MAPS: list[Any] = [
    5,
    "[[0.0], [0.0]]",
    [],
    [[], []],
    [[0.0, 1.0], [0.0]],
    [[0.0, 0.0], [0.0, 1.0]],
    [[0.0, 1.0], [1.0, 1.0]],
    [[0.0, float("nan")], [0.0, 1.0]],
    [[0.0, 1e9], [0.0, 1.0]],
    [[0.0, 10**400], [0.0, 1.0]],
    [[False, True], [0.0, 1.0]],
    [[0.0, "1"], [0.0, 1.0]],
    [[float(i) for i in range(65)]] * 2,
]


def round_trip(config: LabelFusionConfig, folder: Path) -> LabelFusionConfig:
    config.save_pretrained(folder)
    loaded = LabelFusionConfig.from_pretrained(folder)
    automatic = AutoConfig.from_pretrained(folder)
    assert isinstance(automatic, LabelFusionConfig)
    assert automatic.to_json_string() == loaded.to_json_string() == config.to_json_string()
    return loaded


# --- Round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [2, 3, 12, 77])
def test_class_names_keep_their_order(num_labels: int, tmp_path: Path) -> None:
    names = [f"name {num_labels - i}" for i in range(num_labels)]
    config = round_trip(LabelFusionConfig(id2label=dict(enumerate(names))), tmp_path)
    assert config.label_names == names
    assert config.num_labels == num_labels
    assert config.label2id == {name: i for i, name in enumerate(names)}


def test_unicode_class_names_and_descriptions(tmp_path: Path) -> None:
    names = ["政治", "спорт", "kultúra", "🎬 film", "נדל״ן", 'quote " and \\ and\nnewline']
    descriptions = {"政治": "政府と選挙", "🎬 film": "movies — and series"}
    config = LabelFusionConfig(id2label=dict(enumerate(names)), class_descriptions=descriptions)
    loaded = round_trip(config, tmp_path)
    assert loaded.label_names == names
    assert loaded.class_descriptions == descriptions


def test_every_field_survives(tmp_path: Path) -> None:
    config = LabelFusionConfig(
        encoder_config=RobertaConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=50),
        llm_providers=["openai/gpt-5-nano", LLMProvider("recorded", price=(0.5, 1.5), prior=[0.1, 0.2, 0.3])],
        problem_type="multi_label_classification",
        id2label={0: "a", 1: "b", 2: "c"},
        class_descriptions={"a": "first"},
        pooling="cls",
        fusion="pool",
        fusion_hidden_size=7,
        fusion_dropout=0.2,
        classifier_dropout=0.3,
        score_floor=0.01,
        score_dropout=0.4,
        encoder_loss_weight=0.25,
        thresholds=np.array([0.1, 0.2, 0.3], dtype=np.float64),  # type: ignore[arg-type]
        calibration={"temperature": 1.5, "note": "held out"},
        fusion_report={"chosen": "pool", "scores": [1, 2.5, None]},
    )
    loaded = round_trip(config, tmp_path)
    assert loaded.thresholds == [0.1, 0.2, 0.3]
    assert loaded.calibration == {"temperature": 1.5, "encoder_temperature": 1.0, "note": "held out"}
    assert loaded.multi_label
    assert loaded.num_providers == 2
    assert loaded.providers[1] == LLMProvider("recorded", price=(0.5, 1.5), prior=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("model_type", ["roberta", "bert", "distilbert", "deberta-v2", "modernbert", "xlm-roberta"])
def test_nested_encoder_config(model_type: str, tmp_path: Path) -> None:
    encoder = AutoConfig.for_model(model_type, vocab_size=123)
    config = round_trip(LabelFusionConfig(encoder_config=encoder, num_labels=3), tmp_path)
    assert type(config.encoder_config) is type(encoder)
    assert config.encoder_config.vocab_size == 123
    assert config.hidden_size == encoder.hidden_size
    from_dict = LabelFusionConfig(encoder_config=encoder.to_dict(), num_labels=3)
    assert type(from_dict.encoder_config) is type(encoder)
    assert from_dict.encoder_config.vocab_size == 123


def test_defaults_are_a_two_class_roberta(tmp_path: Path) -> None:
    config = round_trip(LabelFusionConfig(), tmp_path)
    assert config.encoder_config.model_type == "roberta"
    assert config.label_names == ["LABEL_0", "LABEL_1"]
    assert (config.problem_type, config.num_providers) == ("single_label_classification", 0)


def test_configs_share_no_state() -> None:
    encoder = RobertaConfig(attn_implementation="eager")  # type: ignore[call-arg]
    config = LabelFusionConfig(encoder_config=encoder)
    config.encoder_config.vocab_size = 7
    assert config._attn_implementation == config.encoder_config._attn_implementation == "eager"
    assert encoder.vocab_size == RobertaConfig().vocab_size

    declared = {"model": "recorded", "params": {"a": 1}}
    first, second = LabelFusionConfig(llm_providers=[declared]), LabelFusionConfig(llm_providers=[declared])
    first.llm_providers[0]["params"]["a"] = 2
    first.calibration["temperature"] = 9.0
    assert second.llm_providers[0]["params"] == {"a": 1}
    assert second.calibration["temperature"] == 1.0
    assert declared == {"model": "recorded", "params": {"a": 1}}


def test_labels_from_either_side() -> None:
    assert LabelFusionConfig(id2label={"1": "b", "0": "a"}).label_names == ["a", "b"]
    assert LabelFusionConfig(label2id={"b": 1, "a": 0}).label_names == ["a", "b"]
    assert LabelFusionConfig(num_labels=3).label_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_one_provider_needs_no_list() -> None:
    for single in ("openai/gpt-5-nano", {"model": "openai/gpt-5-nano"}, LLMProvider("openai/gpt-5-nano")):
        assert [p.model for p in LabelFusionConfig(llm_providers=single).providers] == ["openai/gpt-5-nano"]


# --- Validation ------------------------------------------------------------------------------------------------------

MULTI: dict[str, Any] = {"problem_type": "multi_label_classification"}
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("problem_type", {"problem_type": "regression"}),
    ("problem_type", {"problem_type": None}),
    ("pooling", {"pooling": "max"}),
    ("fusion", {"fusion": "attention"}),
    ("fusion_hidden_size", {"fusion_hidden_size": 0}),
    ("fusion_hidden_size", {"fusion_hidden_size": 1.5}),
    ("fusion_dropout", {"fusion_dropout": 1.1}),
    ("classifier_dropout", {"classifier_dropout": -0.1}),
    ("score_dropout", {"score_dropout": float("nan")}),
    ("score_floor", {"score_floor": 0.0}),
    ("score_floor", {"score_floor": 0.5}),
    ("score_floor", {"score_floor": "0.1"}),
    ("encoder_loss_weight", {"encoder_loss_weight": -1}),
    ("encoder_loss_weight", {"encoder_loss_weight": "1"}),
    ("calibration", {"calibration": {"temperature": 0.0}}),
    ("calibration", {"calibration": {"temperature": float("inf")}}),
    ("calibration", {"calibration": {"encoder_temperature": "hot"}}),
    ("calibration", {"calibration": {"temperature": 10**400}}),
    *(("answer_map", {"calibration": {"answer_map": knots}}) for knots in BAD_MAPS),
    *(
        ("score_maps'\\]\\[1", {"llm_providers": ["a", "b"], "calibration": {"score_maps": [None, m]}})
        for m in BAD_MAPS
    ),
    ("score_maps", {"llm_providers": ["a", "b"], "calibration": {"score_maps": [None]}}),
    ("score_maps", {"llm_providers": ["a"], "calibration": {"score_maps": {"a": None}}}),
    ("num_labels", {"num_labels": 1}),
    ("num_labels", {"num_labels": 4, "id2label": {0: "a", 1: "b"}}),
    ("id2label", {"id2label": {0: "a", 1: "a"}}),
    ("id2label", {"id2label": {0: "a", 2: "b"}}),
    ("id2label", {"id2label": {"a": 0, "b": 1}}),
    ("id2label", {"id2label": ["a", "b"]}),
    ("label2id", {"label2id": ["a", "b"]}),
    ("label2id", {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}),
    ("thresholds", {"thresholds": [0.5, 0.5]}),
    ("thresholds", {**MULTI, "num_labels": 3, "thresholds": [0.5, 0.5]}),
    ("thresholds", {**MULTI, "num_labels": 2, "thresholds": [0.5, 1.5]}),
    ("thresholds", {**MULTI, "num_labels": 2, "thresholds": [0.5, float("nan")]}),
    ("thresholds", {**MULTI, "num_labels": 2, "thresholds": ["high", 0.5]}),
    ("class_descriptions", {"id2label": {0: "a", 1: "b"}, "class_descriptions": {"c": "?"}}),
    ("verbalizers", {"llm_providers": [{"model": "recorded", "verbalizers": {"c": ["x"]}}]}),
    ("prior", {"num_labels": 3, "llm_providers": [{"model": "recorded", "prior": [0.1, 0.2]}]}),
    ("LLM provider", {"llm_providers": [3]}),
]


@pytest.mark.parametrize(("argument", "values"), INVALID, ids=lambda x: x if isinstance(x, str) else None)
def test_invalid_values_are_refused_by_name(argument: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=argument):
        LabelFusionConfig(**values)


def test_one_class_may_be_predicted_or_not() -> None:
    assert LabelFusionConfig(**MULTI, num_labels=1, thresholds=[0.0]).num_labels == 1


INVALID_PROVIDER: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": ""}),
    ("model", {"model": None}),
    ("method", {"method": "guess"}),
    ("prompt", {"prompt": "many-shot"}),
    ("num_examples", {"num_examples": 0}),
    ("num_examples", {"num_examples": "8"}),
    ("texts_per_request", {"texts_per_request": -1}),
    ("votes", {"votes": 0}),
    ("timeout_s", {"timeout_s": float("nan")}),
    ("max_concurrency", {"max_concurrency": 0}),
    ("requests_per_minute", {"requests_per_minute": 0}),
    ("tokens_per_minute", {"tokens_per_minute": "1000"}),
    ("price", {"price": (1.0,)}),
    ("price", {"price": (-1.0, 1.0)}),
    ("price", {"price": (1.0, float("nan"))}),
    ("price", {"price": ("1", "2")}),
    ("price", {"price": -1}),
    ("price", {"price": {"input": 1.0, "output": 2.0}}),
    ("texts_per_request", {"texts_per_request": 2.5}),
    ("max_concurrency", {"max_concurrency": 1.5}),
    ("api_base", {"api_base": 8000}),
    ("name", {"name": ["a"]}),
    ("guidelines", {"guidelines": ["a"]}),
    ("templates", {"templates": "{text}\nTopic:"}),
    ("examples", {"examples": {"text": "x"}}),
    ("verbalizers", {"verbalizers": ["a"]}),
    ("params", {"params": "temperature=0"}),
]


@pytest.mark.parametrize(("argument", "values"), INVALID_PROVIDER, ids=lambda x: x if isinstance(x, str) else None)
def test_invalid_provider_values_are_refused_by_name(argument: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`"):
        LLMProvider(**{"model": "openai/gpt-5-nano", **values})


# --- Providers -------------------------------------------------------------------------------------------------------


def test_from_any() -> None:
    provider = LLMProvider.from_any("openai/gpt-5-nano")
    assert (provider.model, provider.name, provider.method) == ("openai/gpt-5-nano", "openai/gpt-5-nano", "auto")
    assert LLMProvider.from_any(provider) is provider
    assert LLMProvider.from_any({"model": "openai/gpt-5-nano"}) == provider


def test_from_any_tells_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"unknown fields \['temprature'\].*max_concurrency"):
        LLMProvider.from_any({"model": "m", "temprature": 0})
    with pytest.raises(ValueError, match="no `model`"):
        LLMProvider.from_any({"method": "json"})
    with pytest.raises(ValueError, match="got int"):
        LLMProvider.from_any(3)  # type: ignore[arg-type]


def test_provider_dict_round_trip_is_json_and_leaves_out_defaults() -> None:
    assert LLMProvider("openai/gpt-5-nano").to_dict() == {"model": "openai/gpt-5-nano"}
    provider = LLMProvider(
        "local/models/llm",
        name="small one",
        method="likelihood",
        templates=["{text}\nTopic:"],
        verbalizers={"a": ["x", "y"]},
        prior=[-1.0, -2.0],
        api_key_env="MY_KEY",
        price=(0, 2),
        params={"reasoning_effort": "minimal"},
        requests_per_minute=100,
    )
    assert LLMProvider.from_any(json.loads(json.dumps(provider.to_dict()))) == provider


@pytest.mark.parametrize(
    ("model", "api_base", "local"),
    [
        ("local/gpt2", None, True),
        ("embedded/smollm2-135m-instruct", None, True),
        ("openai/gpt-5-nano", None, False),
        ("local/gpt2", "http://localhost:8000/v1", False),
        ("recorded", None, False),
    ],
)
def test_is_local(model: str, api_base: str | None, local: bool) -> None:
    assert LLMProvider(model, api_base=api_base).is_local is local


# --- Secrets ---------------------------------------------------------------------------------------------------------


def refused(secret: str, make: Any) -> None:
    with pytest.raises(ValueError, match="credential") as error:
        make()
    assert secret not in str(error.value)
    assert "api_key_env" in str(error.value)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_known_kinds_of_secrets(secret: str) -> None:
    refused(secret, lambda: LLMProvider("m", guidelines=f"Use {secret} for this."))
    assert secret not in redact(f"request failed with {secret}")


PLACES: dict[str, dict[str, Any]] = {
    "api_base": {"api_base": "https://user:hunter2secret@example.org/v1"},
    "guidelines": {"guidelines": f"key: {SECRET}"},
    "name": {"name": SECRET},
    "model": {"model": SECRET},
    "method": {"method": SECRET},
    "api_key_env": {"api_key_env": SECRET},
    "templates": {"templates": [f"{{text}} {SECRET}"]},
    "examples": {"examples": [{"text": SECRET, "label": "a"}]},
    "verbalizers": {"verbalizers": {"a": [SECRET]}},
    "params": {"params": {"extra_headers": {"x": SECRET}}},
    "params by name": {"params": {"api_key": "hunter2secret"}},
    "headers by name": {"params": {"extra_headers": {"X-Api-Key": "hunter2secret"}}},
    "authorization": {"params": {"extra_headers": {"Authorization": "hunter2secret"}}},
    "query": {"params": {"extra_query": {"code": "hunter2secret"}}},
    "aws": {"params": {"aws_secret_access_key": "hunter2secret"}},
    "session": {"params": {"aws_session_token": "hunter2secret"}},
    "bytes": {"params": {"api_key": b"hunter2secret"}},
    "a key": {"params": {SECRET: 1}},
    "api_key": {"api_key": "hunter2secret"},
}


@pytest.mark.parametrize("values", PLACES.values(), ids=PLACES.keys())
def test_no_place_in_a_provider_takes_a_secret(values: dict[str, Any]) -> None:
    for secret in ("hunter2secret", SECRET):
        refused(secret, lambda: LLMProvider.from_any({"model": "m", **values}))
        refused(secret, lambda: LabelFusionConfig(llm_providers=[{"model": "m", **values}]))


CONFIG_PLACES: dict[str, dict[str, Any]] = {
    "descriptions": {"class_descriptions": {"a": SECRET}},
    "report": {"fusion_report": {"note": [SECRET]}},
    "calibration": {"calibration": {"note": SECRET}},
    "unknown argument": {"anything": SECRET},
    "token": {"token": "hunter2secret"},
    "class name": {"id2label": {0: SECRET, 1: "b"}},
}


@pytest.mark.parametrize("values", CONFIG_PLACES.values(), ids=CONFIG_PLACES.keys())
def test_no_place_in_a_config_takes_a_secret(values: dict[str, Any]) -> None:
    for secret in ("hunter2secret", SECRET):
        refused(secret, lambda: LabelFusionConfig(**{"id2label": {0: "a", 1: "b"}, **values}))


def test_a_secret_assigned_later_is_not_saved(tmp_path: Path) -> None:
    poisons: list[Callable[[LabelFusionConfig], None]] = [
        lambda config: setattr(config, "api_key", "hunter2secret"),
        lambda config: config.llm_providers[0].update(params={"api_key": "hunter2secret"}),
        lambda config: config.class_descriptions.update(LABEL_0=SECRET),
        lambda config: setattr(config.encoder_config, "note", SECRET),
    ]
    LabelFusionConfig(llm_providers=["recorded"]).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    for poison in poisons:
        config = LabelFusionConfig(llm_providers=["recorded"])
        poison(config)
        for secret in ("hunter2secret", SECRET):
            refused(secret, partial(config.save_pretrained, tmp_path))
            refused(secret, config.to_json_string)
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_is_no_secret_passes() -> None:
    names = ["lost_password", "auth_token", "credentials", "api key"]
    config = LabelFusionConfig(
        encoder_config={"model_type": "roberta", "mask_token": "<mask>"},
        id2label=dict(enumerate(names)),
        class_descriptions={"lost_password": "cannot log in", "auth_token": "asks for a token"},
        llm_providers=[
            {
                "model": "openai/gpt-5-nano",
                "api_key_env": "OPENAI_API_KEY",
                "api_base": "http://localhost:8000/v1",
                "verbalizers": {"credentials": ["password", "login"]},
                "guidelines": "A risk-averse customer, a task-oriented-dialogue-system, sk-learn-like-tools.",
                "params": {"max_tokens": 5, "max_completion_tokens": 7},
            }
        ],
        fusion_report={"auth_token": "kept"},
    )
    assert config.to_dict()["class_descriptions"]["lost_password"] == "cannot log in"


def test_refusal_names_the_place_and_never_the_text() -> None:
    with pytest.raises(ValueError, match=r"here\['list'\]\[1\]\['deep'\] looks like a credential") as error:
        refuse_secrets({"list": ["fine", {"deep": SECRET}]}, "here")
    assert SECRET not in str(error.value)


def test_task_and_decision_rule_are_those_of_the_config() -> None:
    config = LabelFusionConfig(
        num_labels=12,
        problem_type="multi_label_classification",
        class_descriptions={"LABEL_1": "the second"},
        thresholds=[0.25] * 12,
        min_labels=1,
    )
    assert config.task == Task([f"LABEL_{i}" for i in range(12)], True, {"LABEL_1": "the second"})
    assert config.task.num_labels == 12
    assert config.decision_rule == DecisionRule([0.25] * 12, 1)
    assert not {"task", "decision_rule"} & config.to_dict().keys()
    assert (Task(["a"]).multi_label, DecisionRule().thresholds, DecisionRule().min_labels) == (False, None, 0)
