"""Verification of an export: its logits on generated texts must be the run's, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.exports.source import ExportSource
from dpft.inference import outputs
from dpft.tasks import sample
from dpft.tokens.encode import encode

TOLERANCE = 1e-4


def texts(paired: bool) -> Examples:
    """Generated texts, no training rows: of several lengths, one empty, one that must be truncated.

    One text of each pair is short: where both are too long, tokenizers differ in how they split an odd length.
    """
    made, _ = sample.generate(5, seed=11)
    first = [*made, "", " ".join(made) * 10, "yes"]
    second = ["no", "a", "", "yes", "so", made[0], "no", " ".join(made) * 10] if paired else None
    return Examples(first, second, np.zeros(len(first), np.int64))


def check(source: ExportSource, folder: Path, kind: Any) -> None:
    """Load `folder` with the class `kind`, without dpft. Raises UserError where its logits differ from the run's."""
    from transformers import AutoTokenizer

    rows = texts(source.trained.paired)
    wanted = logits(source, rows)
    model = kind.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder, config=model.config)(
        list(rows.texts), rows.pairs and list(rows.pairs), padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        found = flat(model(**tokens).logits.numpy(), tokens["attention_mask"].numpy())
    difference = distance(wanted, found, source)
    if not difference <= TOLERANCE:
        raise UserError(
            f"an export must give the run's logits to {TOLERANCE:g} of their size, got {difference:.1e}; "
            "nothing was written, export in another --format and report this"
        )


def logits(source: ExportSource, rows: Examples) -> NDArray[np.float32]:
    """The run's logits: (N, outputs); where it labels words, of every token of every row, (total, outputs)."""
    trained, spec = source.trained, source.spec
    own = source.objective.placeholder_rows(rows.texts, rows.pairs, len(source.labels))
    data = encode(own, trained.tokenizer, spec.representation, spec.max_length)
    return outputs.logits(trained.adapted.model, data.at_every_token(), trained.hardware)


def flat(found: NDArray[np.float32], there: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, outputs) unchanged; (B, T, outputs) -> (total, outputs), without padding."""
    return found if found.ndim == 2 else found[there.astype(bool)]


def distance(wanted: Any, found: Any, source: ExportSource) -> float:
    """Largest difference of logits, relative to the largest summand of a logit."""
    scale = max(float(np.abs(wanted).max()), float(source.head.bias.detach().abs().max()))
    return float(np.abs(wanted - found).max()) / scale
