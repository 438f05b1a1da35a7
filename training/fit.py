"""The whole recipe: from labelled texts and scores to a fitted, calibrated model.

1. The encoder's side: a linear probe on frozen embeddings, cross-validated; then, where time allows, fine-tuning from
   that warm start, kept only if it is better on rows that it has not seen.
2. The fusion, fitted on out-of-sample encoder outputs of the rows that have scores.
3. Temperatures, thresholds, gates and risks, from the same out-of-sample outputs.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..modeling_labelfusion import LabelFusionForSequenceClassification
from .baseline_fit import fit_baseline, out_of_fold
from .calibration import fit_temperature
from .dial import calibrate_dial
from .encoder_sources import FEWEST_ROWS, Neighbours, Words, bags_of_words, combine, fit_neighbours, fit_words
from .encoding import encode_texts
from .finetune import FinetuneOptions, finetune, seconds_per_row
from .folds import assign_folds
from .fusion_fit import FusionData, fit_fusion
from .losses import clearly_better, log_loss
from .metrics import classification_metrics, softmax_or_sigmoid
from .probe import Probe, fit_probe
from .risk import calibrate_risk
from .thresholds import tune_thresholds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ENCODER_TRAINING = ("auto", "probe", "full")
NUM_FOLDS = 5
SMALL = 3000  # rows up to which the encoder is cross-fitted; above, one held-out part is enough


@dataclass
class FitOptions:
    """How a model is fitted.

    Args:
        encoder_training: `"probe"` keeps the encoder frozen; `"full"` fine-tunes it; `"auto"` fine-tunes if the
            estimated time stays below `max_train_minutes`, and keeps what is better on held-out rows.
        max_train_minutes: Bound of the fine-tuning with `"auto"`: fewer epochs and folds, or none.
        extra_sources: Let words and labelled neighbours (`LexicalHead`, `KernelHead`) stand beside the encoder, each
            with the weight that is best out of sample. The kernel head keeps embeddings of training texts.
        threshold_metric: Multi-label: what the thresholds are tuned for, `"accuracy"` (exact match), `"micro_f1"` or
            `"macro_f1"`.
        finetune: Options of the fine-tuning.
        batch_size: Texts in one forward when encoding.
        seed: Seed of folds and training.
        progress: Show progress bars.
    """

    encoder_training: str = "auto"
    max_train_minutes: float = 5.0
    extra_sources: bool = True
    threshold_metric: str = "accuracy"
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    batch_size: int = 32
    seed: int = 0
    progress: bool = False


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
        embeddings: float32 `(n, hidden_size)` of `encode_texts`, if they are there already.
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
    folds = assign_folds(labels, NUM_FOLDS, texts, options.seed)
    if embeddings is None:
        embeddings = encode_texts(
            model,
            tokenizer,
            texts,
            batch_size=options.batch_size,
            max_length=options.finetune.max_length,
            progress=options.progress,
        )
    model.set_heads()
    probe = fit_probe(embeddings, targets, folds, num_labels, multi_label)
    _set_head(model, probe)
    encoder_logits = probe.out_of_fold_logits
    report: dict[str, Any] = {"rows": len(texts), "scored_rows": int(scored.sum()), "encoder_training": "probe"}
    report["encoder_log_loss"] = {"probe": round(probe.loss, 5)}
    covered = np.ones(len(texts), dtype=bool)
    if options.encoder_training != "probe":
        tuned = _finetune(model, tokenizer, texts, labels, scored, probe, options, report)
        if tuned is not None:
            encoder_logits, covered = tuned
    if options.extra_sources and len(texts) >= FEWEST_ROWS:
        others: list[Words | Neighbours] = []
        if report["encoder_training"] == "probe":
            others.append(fit_neighbours(embeddings, targets, folds, num_labels, multi_label))
        bags, lexical_size = bags_of_words(model, tokenizer, texts, options.finetune.max_length)
        others.append(fit_words(bags, targets, folds, lexical_size, num_labels, multi_label))
        report["encoder_log_loss"] |= {type(x).__name__.lower(): round(x.loss, 5) for x in others}
        encoder_logits, weights = combine(model, encoder_logits, others, targets, torch.from_numpy(covered))
        together = log_loss(encoder_logits[covered], targets[covered], multi_label).mean()
        report["encoder_log_loss"]["together"] = round(float(together), 5)
        report["encoder_weights"] = weights
    # Rows with both scores and out-of-sample encoder outputs tell how far each source is to be trusted.
    encoder_temperature = fit_temperature(encoder_logits[covered], targets[covered], multi_label)
    encoder_logits = encoder_logits / encoder_temperature
    if out_of_sample is not None:
        unseen = softmax_or_sigmoid(encoder_logits.numpy(), multi_label)
        out_of_sample["encoder_probs"] = np.where(covered[:, None], unseen, np.nan)
    config.calibration = {"temperature": 1.0, "encoder_temperature": encoder_temperature}
    rows = torch.from_numpy(scored & covered)
    logits = encoder_logits.clone()
    fused = int(rows.sum()) >= 2 * num_labels or int(rows.sum()) >= 20
    if fused:
        frozen = report["encoder_training"] == "probe"
        data = FusionData(
            encoder_logits[rows],
            torch.from_numpy(llm_scores)[rows],
            targets[rows],
            multi_label,
            config.score_floor,
            embeddings[rows] if frozen and model.fusion_mlp is not None else None,
        )
        if model.baseline is not None:
            model.baseline.load_state_dict(fit_baseline(config.fusion, data).state_dict())
            logits[rows] = out_of_fold(config.fusion, data, folds[rows.numpy()])
            report["fusion"] = {"rows": len(data.labels), "chosen": config.fusion}
        else:
            kwargs = {"fusion_hidden_size": config.fusion_hidden_size, "dropout": config.fusion_dropout}
            fit = fit_fusion(data, folds[rows.numpy()], fusion=config.fusion, mlp_kwargs=kwargs)
            _set_fusion(model, fit.pool, fit.mlp)
            logits[rows] = fit.out_of_fold_logits
            report["fusion"] = fit.report
        config.calibration["temperature"] = fit_temperature(logits[rows], targets[rows], multi_label)
        logits[rows] = logits[rows] / config.calibration["temperature"]
    elif config.num_providers and scored.any():
        report["fusion"] = {"rows": int(rows.sum()), "chosen": "default pool: too few scored rows to fit one"}
    evaluated = rows if bool(rows.any()) else torch.from_numpy(covered)
    probabilities = softmax_or_sigmoid(logits[evaluated].numpy(), multi_label)
    truth = labels[evaluated.numpy()]
    if multi_label:
        config.min_labels = int(labels.sum(axis=1).min() >= 1)
        config.thresholds = tune_thresholds(probabilities, truth, options.threshold_metric, config.min_labels)
    if fused:
        config.calibration |= calibrate_dial(
            model,
            encoder_logits[rows],
            logits[rows],
            llm_scores[rows.numpy()],
            labels[rows.numpy()],
            folds[rows.numpy()],
        )
    else:
        alone = softmax_or_sigmoid(encoder_logits[covered].numpy(), multi_label)
        config.calibration["risk"] = calibrate_risk(
            alone, alone, np.zeros(len(alone)), labels[covered], multi_label, config.thresholds, config.min_labels
        )
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


def _finetune(
    model: LabelFusionForSequenceClassification,
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    scored: NDArray[np.bool_],
    probe: Probe,
    options: FitOptions,
    report: dict[str, Any],
) -> tuple[torch.Tensor, NDArray[np.bool_]] | None:
    """Fine-tune if it is worth its time; returns out-of-sample logits `(n, K)` and which rows have them."""
    parts = _held_out_parts(labels, scored, texts, options.seed)
    epochs = options.finetune.num_train_epochs
    if options.encoder_training == "auto":
        per_row = seconds_per_row(model, tokenizer, texts, options.finetune)
        budget = options.max_train_minutes * 60
        trained = [len(texts) - int(part.sum()) for part in parts]
        while epochs > 2 and per_row * epochs * (sum(trained) + len(texts)) > budget:
            epochs -= 1
        while len(parts) > 1 and per_row * epochs * (sum(trained[: len(parts)]) + len(texts)) > budget:
            parts.pop()
        estimate = per_row * epochs * (sum(trained[: len(parts)]) + len(texts))
        report["finetune_estimate_minutes"] = round(estimate / 60, 1)
        if estimate > budget:
            logger.warning(
                "The encoder stays frozen: fine-tuning would take about %.0f minutes, more than "
                "`max_train_minutes`=%g. Raise it, or use a GPU or a smaller encoder.",
                estimate / 60,
                options.max_train_minutes,
            )
            return None
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    num_labels = model.config.num_labels
    per_epoch = torch.zeros(epochs, len(texts), num_labels)
    covered = np.zeros(len(texts), dtype=bool)
    for part in parts:
        train = ~part
        finished = finetune(
            model,
            tokenizer,
            [t for t, use in zip(texts, train, strict=True) if use],
            labels[train],
            options.finetune,
            num_epochs=epochs,
            held_out=([t for t, use in zip(texts, part, strict=True) if use], labels[part]),
        )
        assert finished is not None
        per_epoch[:, torch.from_numpy(part)] = finished.logits
        covered |= part
        model.load_state_dict(start)
    targets, rows = torch.from_numpy(labels), torch.from_numpy(covered)

    def calibrated_losses(logits: torch.Tensor) -> torch.Tensor:
        temperature = fit_temperature(logits[rows], targets[rows], model.config.multi_label)
        return log_loss(logits[rows] / temperature, targets[rows], model.config.multi_label)

    losses = [calibrated_losses(x) for x in per_epoch]
    best = int(np.argmin([float(x.mean()) for x in losses]))
    reference = calibrated_losses(probe.out_of_fold_logits)
    report["encoder_log_loss"] |= {
        "full": round(float(losses[best].mean()), 5),
        "probe_on_same_rows": round(float(reference.mean()), 5),
    }
    if options.encoder_training == "auto" and not clearly_better(losses[best], reference):
        return None
    # The schedule that was measured, stopped after the epoch that was best.
    finetune(model, tokenizer, texts, labels, options.finetune, num_epochs=epochs, stop_after=best + 1)
    report |= {"encoder_training": "full", "num_train_epochs": best + 1}
    return per_epoch[best], covered


def _held_out_parts(
    labels: NDArray[Any], scored: NDArray[np.bool_], texts: list[str], seed: int
) -> list[NDArray[np.bool_]]:
    """The parts of the rows that are held out in turn, from the scored ones if there are any."""
    eligible = scored if scored.any() else np.ones(len(labels), dtype=bool)
    share = eligible.mean()
    if len(labels) <= SMALL and share > 0.35:
        count = 3
    elif share > 0.35:
        count = 4  # of which the first alone is used
    else:
        return [eligible]
    folds = assign_folds(labels, count, texts, seed + 1)
    parts = [eligible & (folds == f) for f in range(count)]
    parts = [p for p in parts if p.any()]
    return parts if len(labels) <= SMALL else parts[:1]


def _set_head(model: LabelFusionForSequenceClassification, probe: Probe) -> None:
    with torch.no_grad():
        model.encoder_head.weight.copy_(probe.weight)
        model.encoder_head.bias.copy_(probe.bias)


def _set_fusion(model: LabelFusionForSequenceClassification, pool: Any, mlp: Any) -> None:
    model.score_pool.load_state_dict(pool.state_dict())
    if model.fusion_mlp is not None:
        if mlp is not None:
            model.fusion_mlp.load_state_dict(mlp.state_dict())
        else:
            with torch.no_grad():
                model.fusion_mlp.out_proj.weight.zero_()
                model.fusion_mlp.out_proj.bias.zero_()
