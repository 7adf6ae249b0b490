"""After the last step: evaluate, then write the adapter, the privacy card and the result."""

from __future__ import annotations

from dataclasses import dataclass

from dpft.inference import outputs
from dpft.privacy.ledger import Ledger
from dpft.progress import Progress
from dpft.runs import label_shares, ledger_charges, overlap
from dpft.runs.folder import Run, adapter_digest
from dpft.runs.privacy_card import Charge, card
from dpft.runs.result import Result
from dpft.spec import canonical_json
from dpft.training.preparation import Prepared


@dataclass(frozen=True)
class Cost:
    """Cost of training: seconds over all resumed parts, and peak memory (MiB) of the last part."""

    seconds: float
    memory_mib: int | None


def finish(run: Run, ready: Prepared, ledger: Ledger | None, cost: Cost, progress: Progress) -> Result:
    """Evaluate the trained model, settle the run in the ledger, and write adapter, privacy card and result."""
    progress.stage("evaluating on the validation rows")
    plan, adapted, resolved, task = run.plan, ready.adapted, ready.hardware, ready.task
    judged = {
        part: (outputs.logits(adapted.model, ready.judged[part], resolved), rows) for part, rows in task.judged.items()
    }
    found = outputs.evaluate_metrics(task.objective, task.metrics, task.labels, judged)
    classes = task.objective.by_class(*judged[""], task.labels) if judged else {}
    about = {
        "spec": canonical_json(run.spec.to_json()),
        "kind": canonical_json(task.objective.kind),
        "labels": canonical_json(list(task.labels)),
        "paired": canonical_json(task.paired),
        "backbone_sha256": adapted.model.digest,
    }
    run.save_tensors("adapter", adapted.state(), about)
    charge = Charge(plan.steps, "", None)
    if ledger is not None:
        ledger.settle(run.id)
        charge = Charge(ledger.charged(run.id), ledger.head(), ledger_charges.spent_on_population(ledger, plan, run.id))
    shared = overlap.NOTE if ready.shared else None
    promised = card(run.spec, plan, ready.train.unit_count, charge, resolved.precision, task.read_from_training, shared)
    begun = {} if ready.start is None else {"start": ready.start.stated(charge.population, run.spec.start_public)}
    why = (run.read_json("recipe") or {}).get("reasons")
    chose = {} if why is None else {"recipe": why}
    if (run.path / f"{label_shares.FILE}.json").is_file():
        chose["label_shares"] = label_shares.STATEMENT if plan.budget else "exact, NOT PRIVATE"
    run.write_json("privacy", {**promised, **begun, **chose, "adapter_sha256": adapter_digest(run)})
    result = Result(
        run.path, task.metric, found.pop(task.metric, None), plan.epsilon_upper,
        plan.budget.delta if plan.budget else None, plan.steps, sum(p.numel() for p in adapted.private),
        round(cost.seconds), resolved.precision, resolved.device.type, cost.memory_mib, found, classes,
        task.objective.metric(task.metric).higher_is_better,
    )  # fmt: skip
    run.write_json("result", result.to_json())
    return result
