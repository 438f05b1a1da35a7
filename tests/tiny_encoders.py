"""Configs of tiny encoders, one of each kind that people use."""

from typing import Any

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 40}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": COMMON,
    "bert": COMMON,
    "distilbert": {
        **{"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        "max_position_embeddings": 40,
    },
    "deberta-v2": {**COMMON, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "modernbert": {
        **COMMON,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        **{"global_attn_every_n_layers": 2, "local_attention": 6},
    },
    "xlm-roberta": COMMON,
}
