"""README.md of an export: a model card for the hub, with the run's privacy statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpft.exports.source import ExportSource
from dpft.models.loading import BUILTIN, BUILTIN_LM, BUILTIN_LM_NAME
from dpft.runs import label_shares
from dpft.runs.privacy_card import NOT_PRIVATE
from dpft.runs.statements import stated
from dpft.spec import Spec

UPSTREAM = "sentence-transformers/all-MiniLM-L6-v2"
UPSTREAM_LM = "HuggingFaceTB/SmolLM2-135M-Instruct"  # in more bits than the built-in one
# The hub's names of metrics, where they differ from GLUE's.
_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
_NUMBERS = {
    "adjacency": "neighbouring data sets",
    "unit": "unit of privacy",
    "mechanism": "mechanism",
    "sampler": "sampling",
    "noise": "noise multiplier σ",
    "clip": "clipping norm C",
    "rate": "sampling rate q",
    "steps_charged": "steps",
    "accountant": "upper bound by",
    "randomness": "randomness",
    "ledger_head": "ledger head",
}


def readme(source: ExportSource, usage: Sequence[str], library: str = "transformers") -> str:
    """The model card. It contains no local path and nothing of any row."""
    return "\n".join([*_front(source, library), "", *_about(source, usage), "", *_privacy(source), ""])


def base_model(spec: Spec) -> str | None:
    """The hub id of the base model's weights; None for those that no hub has, and a local folder, whose name must not
    be published."""
    if spec.model == BUILTIN:
        return UPSTREAM
    return None if spec.model == BUILTIN_LM or Path(spec.model).is_dir() else spec.model


def _front(source: ExportSource, library: str) -> list[str]:
    """The YAML front matter. JSON values are valid YAML, so every name is quoted correctly."""
    metrics = _metrics(source)
    private = bool(source.privacy.get("private"))
    values: dict[str, Any] = {
        "library_name": library,
        "base_model": UPSTREAM_LM if source.spec.model == BUILTIN_LM else base_model(source.spec),
        "pipeline_tag": source.objective.export.pipeline,
        "tags": ["dpft", source.spec.method, *(["differential-privacy", "dp-sgd"] if private else ["not-private"])],
        "metrics": [metric["type"] for metric in metrics] or None,
        "model-index": [
            {
                "name": f"{_task(source.spec)} by dpft",
                "results": [
                    {
                        "task": {"type": source.objective.export.pipeline},
                        "dataset": {"type": source.spec.task, "name": _task(source.spec), "split": "validation"},
                        "metrics": metrics,
                    }
                ],
            }
        ] if metrics else None,
    }  # fmt: skip
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    return ["---", *lines, "---"]


def _task(spec: Spec) -> str:
    return f"{spec.task} (local files)" if spec.data else spec.task


def _metrics(source: ExportSource) -> list[dict[str, Any]]:
    """The validation metrics, the main one first; empty without a validation set."""
    result = source.result
    if result["value"] is None:
        return []
    figures = {result["metric"]: result["value"], **result.get("further", {})}
    types = {name: name.partition("_")[0] for name in figures}  # f1_macro -> f1; accuracy_mismatched -> accuracy
    return [
        {"type": _METRICS.get(types[name], types[name]), "name": name, "value": round(float(value), 6)}
        for name, value in figures.items()
    ]


def _about(source: ExportSource, usage: Sequence[str]) -> list[str]:
    spec, result = source.spec, source.result
    mark = "" if source.privacy.get("private") else f" ({NOT_PRIVATE})"
    wording = source.objective.wording
    outputs = wording.outputs.format(labels=", ".join(source.labels))
    evaluated = "not evaluated: the run had no validation set"
    if result["value"] is not None:
        evaluated = f"{result['metric']} {float(result['value']):.4f} on the validation set"
    inputs = "pairs of texts" if source.trained.takes_pairs else wording.inputs
    local = BUILTIN_LM_NAME if spec.model == BUILTIN_LM else f"A local {wording.model}"
    reading = wording.reading.format(representation=spec.representation)
    return [
        f"# {spec.task}, {spec.method}{mark}",
        "",
        f"{base_model(spec) or local}, fine-tuned on {_task(spec)} with dpft by the method {spec.method}.",
        f"Inputs: {inputs} of up to {spec.max_length} tokens; {outputs}.{reading}",
        *source.objective.card_lines(source.labels, source.trained.paired),
        f"{evaluated}; {result['trainable']:,} trainable parameters.",
        "",
        *_special(source),
        "## Use",
        "",
        "`DIR` is this folder.",
        "",
        "```python",
        *usage,
        "```",
    ]


def _special(source: ExportSource) -> list[str]:
    """A warning about inputs that the model may misread."""
    if source.spec.representation != "mask":
        return []
    return ["If a text contains the tokenizer's mask token, the head may read that token instead.", ""]


def _privacy(source: ExportSource) -> list[str]:
    """The privacy statement and its parameters, from privacy.json, and the labels' shares that the run released."""
    card, released = source.privacy, source.trained.run.read_json(label_shares.FILE)
    lines = ["## Privacy", "", f"**{stated(card)}**"]
    if card.get("private"):
        lines += ["", f"ε = {card['epsilon']!r} (an upper bound), δ = {card['delta']!r}.", ""]
        lines += [f"- {name}: {_shown(card[key])}" for key, name in _NUMBERS.items() if key in card]
        lines += ["", "Covered:", "", *(f"- {text}" for text in card["covers"])]
        lines += ["", "Not covered:", "", *(f"- {text}" for text in card["does_not_cover"])]
    if released is not None:
        shares = ", ".join(f"{name} {share}" for name, share in released["shares"].items())
        lines += ["", f"Shares of the labels in the training data: {shares} ({card['label_shares']})."]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return [*lines, "", "## Versions", "", f"Trained with {versions}; Python {card['python']}."]


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
