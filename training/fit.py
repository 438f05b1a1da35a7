"""The whole recipe: from labelled texts and scores to a fitted, calibrated model.

1. The encoder's side, see `encoder_fit`.
2. The fusion, fitted on out-of-sample encoder outputs of the rows that have scores.
3. Calibration of sources and answer, thresholds, gates and risks, from the same out-of-sample outputs.
"""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..modeling_labelfusion import LabelFusionForSequenceClassification
from ..modeling_labelfusion.encoding import encode_texts, inner_layers
from ..modeling_labelfusion.heads import HEADS
from .calibration.calibration_choice import add_after, calibrate_answer, calibrate_encoder, calibrate_llms
from .calibration.risk_fit import calibrate_risk
from .calibration.selective_querying import calibrate_dial
from .calibration.thresholds import tune_thresholds
from .encoder.encoder_fit import fit_encoder
from .encoder.novelty_fit import fit_novelty
from .fit_options import FitOptions
from .folds import assign_folds
from .fusion.baseline_fit import fit_baseline, out_of_fold
from .fusion.fusion_data import FusionData
from .fusion.fusion_fit import fit_fusion
from .fusion.label_sets import choose_label_sets
from .metrics import classification_metrics, softmax_or_sigmoid
from .review import check_class_order, check_quality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_FOLDS = 5
NOVELTY_ROWS = 2000  # that a trained encoder encodes once more


def fit_model(
    model: LabelFusionForSequenceClassification,
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    llm_scores: NDArray[np.float32] | None,
    options: FitOptions,
    embeddings: torch.Tensor | None = None,
    out_of_sample: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fit `model` in place and return the report, which is also stored in its config.

    Args:
        model: A model with a pretrained encoder.
        tokenizer: Its tokenizer.
        texts: n labelled texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        llm_scores: float32 `(n, P, K)`, NaN for missing; `None`: no scores at all.
        options: How.
        embeddings: float32 `(n, pooled_size)` of `encode_training_texts`, if they are there already.
        out_of_sample: Receives `encoder_probs`, float64 `(n, K)`: the encoder's own calibrated answer to each row that
            it has not seen; NaN for the others.
    """
    config = model.config
    num_labels, multi_label = config.num_labels, config.multi_label
    started = time.perf_counter()
    targets = torch.from_numpy(labels)
    if llm_scores is None or config.num_providers == 0:
        llm_scores = np.full((len(texts), config.num_providers, num_labels), np.nan, dtype=np.float32)
    scored: NDArray[np.bool_] = ~np.isnan(llm_scores).any(axis=-1).all(axis=-1)  # type: ignore
    if not multi_label:
        check_class_order(llm_scores, labels, config.label_names, [str(x.name) for x in config.providers])
    check_quality(llm_scores, labels, multi_label, [str(x.name) for x in config.providers])
    folds = assign_folds(labels, NUM_FOLDS, texts, options.seed)
    if embeddings is None:
        embeddings = encode_training_texts(model, tokenizer, texts, options)
    report: dict[str, Any] = {"rows": len(texts), "scored_rows": int(scored.sum())}
    encoder_logits, covered = fit_encoder(model, tokenizer, texts, labels, scored, folds, embeddings, options, report)
    frozen = report["encoder_training"] == "probe"
    rows = torch.from_numpy(scored & covered)
    novelty = np.zeros(len(texts), dtype=np.float32)
    if frozen:
        novelty = fit_novelty(model, embeddings[:, : config.hidden_size], folds)
    elif config.num_providers:  # a trained encoder has other embeddings
        some = _some(rows.numpy(), options.seed)
        trained = encode_texts(model, tokenizer, [texts[i] for i in some], **_encoding(options))
        novelty[some] = fit_novelty(model, trained[:, : config.hidden_size], folds[some])
    # Rows with both scores and out-of-sample encoder outputs tell how far each source is to be trusted.
    encoder_logits[covered], encoder_temperature, calibrated = calibrate_encoder(
        model, encoder_logits[covered], targets[covered], folds[covered], options.calibration
    )
    report["calibration"] = {"encoder": calibrated}
    label_sets, alone = None, encoder_logits.clone()  # the latter: what the encoder's side answers
    if multi_label and options.calibration == "auto":
        label_sets, report["classes"] = choose_label_sets(
            model, encoder_logits[covered], targets[covered], folds[covered]
        )
        if label_sets is not None:
            alone[covered] = label_sets(encoder_logits[covered])
    if out_of_sample is not None:
        unseen = softmax_or_sigmoid(alone.numpy(), multi_label)
        out_of_sample["encoder_probs"] = np.where(covered[:, None], unseen, np.nan)
    config.calibration = {"temperature": 1.0, "encoder_temperature": encoder_temperature}
    logits = alone.clone()
    scored_folds = folds[rows.numpy()]
    # Rows that share a fold, as those of one text do, leave none to fit on.
    fused = len(scored_folds) >= min(2 * num_labels, 20) and len(np.unique(scored_folds)) > 1
    if fused:
        baseline = model.baseline is not None  # combines answers
        data = FusionData(
            (alone if baseline else encoder_logits)[rows],
            torch.from_numpy(llm_scores)[rows],
            targets[rows],
            multi_label,
            config.score_floor,
            embeddings[rows, : config.hidden_size] if frozen and model.fusion_mlp is not None else None,
            None if baseline or label_sets is None else label_sets.rows(rows[covered]),
        )
        maps, data, report["calibration"]["llms"] = calibrate_llms(data, scored_folds, options.calibration)
        if any(maps):
            config.calibration["score_maps"] = maps
        if model.baseline is not None:
            model.baseline.load_state_dict(fit_baseline(config.fusion, data).state_dict())
            logits[rows] = out_of_fold(config.fusion, data, scored_folds)
            report["fusion"] = {"rows": len(data.labels), "chosen": config.fusion}
        else:
            kwargs = {"fusion_hidden_size": config.fusion_hidden_size, "dropout": config.fusion_dropout}
            fit = fit_fusion(data, scored_folds, fusion=config.fusion, mlp_kwargs=kwargs)
            _set_fusion(model, fit.pool, fit.mlp)
            logits[rows] = fit.out_of_fold_logits
            report["fusion"] = fit.report
            add_after(report["calibration"]["llms"], fit.sources[1:], data)
        logits[rows], found, report["calibration"]["answer"] = calibrate_answer(
            logits[rows], targets[rows], scored_folds, multi_label, options.calibration
        )
        config.calibration |= found
    elif config.num_providers and scored.any():
        report["fusion"] = {"rows": int(rows.sum()), "chosen": "default pool: too few scored rows to fit one"}
    evaluated = rows if fused else torch.from_numpy(covered)
    probabilities = softmax_or_sigmoid(logits[evaluated].numpy(), multi_label)
    truth = labels[evaluated.numpy()]
    if multi_label:
        config.min_labels = int(labels.sum(axis=1).min() >= 1)
        config.thresholds = tune_thresholds(probabilities, truth, options.threshold_metric, config.min_labels)
    if fused:
        config.calibration |= calibrate_dial(model, data, logits[rows], scored_folds, novelty[rows.numpy()])
    else:
        risk = calibrate_risk(
            probabilities, probabilities, np.zeros(len(truth)), truth, multi_label, config.thresholds, config.min_labels
        )
        # What the default pool makes of the scores was not measured.
        config.calibration["risk"] = risk | ({"encoder_only": True} if config.num_providers else {})
    report["out_of_sample"] = {
        k: round(v, 5)
        for k, v in classification_metrics(
            probabilities, truth, multi_label, config.thresholds, config.min_labels
        ).items()
    }
    report["seconds"] = round(time.perf_counter() - started, 1)
    config.fusion_report = report
    model.eval()
    return report


def encode_training_texts(
    model: LabelFusionForSequenceClassification,
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    options: FitOptions,
) -> torch.Tensor:
    """What a fit starts from: float32 `(n, pooled_size)`, once `model` has its `pooling_layers` and no extra heads."""
    model.set_heads(**dict.fromkeys(HEADS, 0))
    model.set_pooling_layers(inner_layers(model, tokenizer, texts) if options.extra_sources else [])
    return encode_texts(model, tokenizer, texts, **_encoding(options))


def _encoding(options: FitOptions) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in ("batch_size", "bf16", "progress")}
    return settings | {"max_length": options.finetune.max_length}


def _some(needed: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Rows enough to know where texts lie: the needed ones and, up to `NOVELTY_ROWS`, others, in order."""
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~needed))
    return np.sort(np.concatenate([np.flatnonzero(needed), others[: max(0, NOVELTY_ROWS - int(needed.sum()))]]))


def _set_fusion(model: LabelFusionForSequenceClassification, pool: Any, mlp: Any) -> None:
    model.score_pool.load_state_dict(pool.state_dict())
    if model.fusion_mlp is not None:
        if mlp is not None:
            model.fusion_mlp.load_state_dict(mlp.state_dict())
        else:
            with torch.no_grad():
                model.fusion_mlp.out_proj.weight.zero_()
                model.fusion_mlp.out_proj.bias.zero_()
