"""Fixtures shared by the tests: a tiny tokenizer, a tiny encoder on disk and models with random weights."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = (
    "a the is was very not good bad great awful fine movie film plot actor team game match goal player market stock "
    "price bank trade chip code phone data science election vote law court war peace rain sun w0 w1 w2 w3 w4 w5 w6 w7 "
    "w8 w9 . , ! ?"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


LONGEST = ("test_ray.py", "test_docs.py", "test_train_budget.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: of two processes, none waits for it at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-casing WordPiece; a word that is not in `WORDS` is spelt by letters, or unknown. 64 tokens at most."""
    pieces = [*SPECIAL, *WORDS.split(), *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


@pytest.fixture(scope="session")
def tiny_encoder_config(tiny_tokenizer: PreTrainedTokenizerFast) -> BertConfig:
    return BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="session")
def tiny_encoder_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast, tiny_encoder_config: BertConfig
) -> str:
    """Folder of a random `BertModel` (hidden 32) with its tokenizer, for `from_encoder_pretrained`."""
    folder = tmp_path_factory.mktemp("tiny-encoder")
    torch.manual_seed(0)
    BertModel(tiny_encoder_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_model(tiny_encoder_config: BertConfig) -> Callable[..., LabelFusionForSequenceClassification]:
    """`make_model(num_labels=3, num_providers=1, multi_label=False, encoder_config=None, seed=0, **config)`.

    A random model in eval mode. Its fusion is disturbed (it starts as a plain pool), so that a wrong path shows.
    """

    def make(
        num_labels: int = 3,
        num_providers: int = 1,
        multi_label: bool = False,
        encoder_config: Any = None,
        seed: int = 0,
        **config: Any,
    ) -> LabelFusionForSequenceClassification:
        torch.manual_seed(seed)
        config.setdefault("id2label", {i: f"class{i}" for i in range(num_labels)})
        config.setdefault("llm_providers", [{"model": "recorded", "name": f"llm{i}"} for i in range(num_providers)])
        model = LabelFusionForSequenceClassification(
            LabelFusionConfig(
                encoder_config=encoder_config or tiny_encoder_config,
                problem_type="multi_label_classification" if multi_label else "single_label_classification",
                **config,
            )
        )
        with torch.no_grad():
            model.encoder_head.weight.normal_(std=1.0)
            for module in (model.score_pool, model.fusion_mlp):
                for parameter in module.parameters() if module is not None else ():
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        return model.eval()

    return make


@pytest.fixture
def saved_model(
    tmp_path: Path,
    make_model: Callable[..., LabelFusionForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> Callable[..., Path]:
    """`saved_model(**as_make_model)`: a folder with a model and its tokenizer."""

    def save(**kwargs: Any) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        make_model(**kwargs).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(autouse=True)
def heard_loggers() -> Iterator[None]:
    """No test leaves a logger deaf: what later tests expect to be logged would be missing."""

    def state() -> list[Any]:
        ours = [name for name in logging.root.manager.loggerDict if name.startswith("labelfusion")]
        loggers = [logging.root, *map(logging.getLogger, ours)]
        changed = [(x.name, x.level, x.filters[:]) for x in loggers if x.level or x.filters or x.disabled]
        return [changed, [handler.filters[:] for handler in logging.root.handlers if handler.filters]]

    level, filters, before = logging.root.level, logging.root.filters[:], state()
    yield
    found = state()
    logging.root.setLevel(level)
    logging.root.filters = filters
    assert found == before, "this test changed what is logged"
