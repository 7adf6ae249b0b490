"""Level three of an audit: membership inference on the trained model, from its losses on the canaries."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dpft import tasks
from dpft.audit.evidence import lower_bounds as bounds
from dpft.audit.evidence.report import Check, Level, StatisticalTest, bound, evaluate_tests
from dpft.audit.mechanism.attacks import GUESSED_SHARE, guess
from dpft.data.examples import Examples
from dpft.inference import outputs
from dpft.inference.build import build_model
from dpft.inference.trained_model import Trained
from dpft.inference.writing import Sampling
from dpft.runs import canary_rows
from dpft.runs.canary_rows import CanaryRows
from dpft.runs.folder import write
from dpft.tokens.encode import encode

_LEVEL: Level = "model"
_NEW_TOKENS = 24  # room for a secret and some words before it
_PEOPLE = 2000  # most rows of each split that the comparison without canaries uses
_TOKENS = 2**18  # about as many tokens, too
Floats = NDArray[np.float64]


def checks(trained: Trained, risk: float) -> list[Check]:
    """All checks of level three: on the run's canaries, or, without canaries, training rows against validation rows."""
    found = canary_rows.included_canaries(trained.run, trained.objective, trained.labels, trained.paired)
    if found is None:
        return _training_against_validation(trained)
    reference = _untrained(trained)
    losses, before = _losses(trained, found.rows), _losses(reference, found.rows)
    written = _written(trained, found)
    _keep(trained, found, losses, before, written)
    gained = before - losses
    return [
        *figures("loss", -losses, found.included),
        *figures("loss beside the untrained model's", gained, found.included),
        *exposure(-losses, found),
        *_secrets(written, found.included),
        *evaluate_tests(_LEVEL, _bounds(trained, gained, found.included), risk),
    ]


def _bounds(trained: Trained, scores: Floats, members: NDArray[np.bool_]) -> list[StatisticalTest]:
    """Lower bounds, compared with the run's epsilon. The threshold is set on even canaries and used on odd ones."""
    plan = trained.run.plan
    claimed, delta = (plan.epsilon_upper, plan.budget.delta) if plan.budget else (None, 1e-5)
    even = np.arange(len(scores)) % 2 == 0
    threshold = float(np.quantile(scores[even & ~members], 0.95)) if (even & ~members).any() else 0.0
    inside, outside = scores[~even & members], scores[~even & ~members]
    hits = int((inside > threshold).sum()), len(inside)
    alarms = int((outside > threshold).sum()), len(outside)
    guesses, correct = guess(scores, members)
    guessed = f"{correct} of {guesses} guesses correct, {2 * GUESSED_SHARE:.0%} of the canaries, fixed beforehand"
    high = bounds.MAX_EPSILON if claimed is None else claimed
    return [
        bound("ε, model: Clopper-Pearson", lambda risk: bounds.clopper_pearson(hits, alarms, delta, risk), high,
              f"caught {hits[0]} of {hits[1]}, false alarms {alarms[0]} of {alarms[1]}"),
        bound("ε, model: one run", lambda risk: bounds.one_run(len(scores), guesses, correct, delta, risk), high,
              guessed),
    ]  # fmt: skip


def figures(name: str, scores: Floats, members: NDArray[np.bool_]) -> list[Check]:
    """AUC, and the true positive rate at two false positive rates, if enough non-members are there to resolve them."""
    if members.all() or not members.any():
        return [Check(_LEVEL, f"AUC, {name}", float("nan"), None, None, "figure", "all canaries in, or all out")]
    others = int((~members).sum())
    found = [Check(_LEVEL, f"AUC, {name}", float(roc_auc_score(members, scores)), None, None, "figure", "0.5: no leak")]
    for rate in (0.01, 0.001):
        limit = np.sort(scores[~members])[::-1][int(rate * others)]
        caught = float((scores[members] > limit).mean())
        about = "" if rate * others >= 1 else f"not resolved: {others} canaries are out, {1 / rate:.0f} are needed"
        found.append(Check(_LEVEL, f"TPR at FPR {rate:.1%}, {name}", caught, None, None, "figure", about))
    return found


def exposure(scores: Floats, found: CanaryRows) -> list[Check]:
    """Exposure: log2 of (number of random strings / rank of an included one) (Carlini et al. 2019, section 4.2)."""
    inside, outside = scores[found.random & found.included], scores[found.random & ~found.included]
    if len(inside) == 0 or len(outside) == 0:
        return []
    ranks = 1 + (outside[None] > inside[:, None]).sum(1)
    exposures = np.log2(len(outside) + 1) - np.log2(ranks)
    about = f"of at most {np.log2(len(outside) + 1):.2f} bits; 1.44 without memorisation"
    return [
        Check(_LEVEL, "mean exposure of random strings", float(exposures.mean()), None, None, "figure", about),
        Check(_LEVEL, "largest exposure", float(exposures.max()), None, None, "figure", about.partition(";")[0]),
    ]


def _written(trained: Trained, found: CanaryRows) -> list[bool]:
    """Whether the model writes each secret after its prefix, by the likeliest tokens; [] where it does not write."""
    if not found.secrets:
        return []
    texts = trained.write(found.prefixes, Sampling(temperature=0.0, max_new_tokens=_NEW_TOKENS))
    return [secret in text.text for secret, text in zip(found.secrets, texts, strict=True)]


def _secrets(written: list[bool], included: NDArray[np.bool_]) -> list[Check]:
    """How many secrets are in what the model writes after their prefixes."""
    kinds = (("included", included), ("left-out", ~included)) if written else ()
    return [
        Check(_LEVEL, f"{name} secrets that the model writes", float(np.array(written)[of].sum()), None, None, "figure",
              f"of {int(of.sum())}, after their prefixes")
        for name, of in kinds
    ]  # fmt: skip


def _training_against_validation(trained: Trained) -> list[Check]:
    """Training rows against validation rows. Computed on real rows; the splits may also differ by themselves."""
    task = tasks.load(trained.run.spec)
    if task.validation is None:
        return []
    most = min(_PEOPLE, _TOKENS // trained.run.spec.max_length)
    sides = [_losses(trained, rows.first(most)) for rows in (task.train, task.validation)]
    scores, members = -np.concatenate(sides), np.repeat([True, False], [len(side) for side in sides])
    about = "indicative: the splits may differ by themselves; computed on real rows without noise"
    value = float(roc_auc_score(members, scores))
    return [Check(_LEVEL, "AUC, training against validation rows", value, None, None, "figure", about, private=True)]


def _losses(trained: Trained, rows: Examples) -> Floats:
    """The loss of each row: (N,)."""
    spec = trained.run.spec
    data = encode(rows, trained.tokenizer, spec.representation, spec.max_length)
    return trained.objective.row_losses(outputs.logits(trained.adapted.model, data, trained.hardware), rows)


def _untrained(trained: Trained) -> Trained:
    """The same model before the first step."""
    made = build_model(
        trained.run.spec, len(trained.labels), trained.paired, trained.hardware, objective=trained.objective
    )
    return Trained(trained.run, made.adapted, trained.labels, trained.paired, made.tokenizer, trained.hardware)


def _keep(trained: Trained, found: CanaryRows, losses: Floats, before: Floats, written: list[bool]) -> None:
    """Write each canary's losses to private/, and whether the model writes its secret."""
    lines = [
        {"included": bool(i), "random": bool(r), "loss": float(a), "loss_untrained": float(b)}
        for i, r, a, b in zip(found.included, found.random, losses, before, strict=True)
    ]
    for line, wrote in zip(lines, written, strict=False):
        line["written"] = wrote
    path = trained.run.path / "private" / "canary_losses.json"
    write(path, (json.dumps(lines, indent=1) + "\n").encode())
    path.chmod(0o600)
