"""An export is the run: its logits on texts that we made up, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.data.examples import Rows
from dpft.errors import UserError
from dpft.exports.source import Source
from dpft.inference import outputs
from dpft.tasks import sample
from dpft.tokens.encode import encode

TOLERANCE = 1e-4


def texts(paired: bool) -> Rows:
    """Made-up texts, no training row: of several lengths, an empty one, and one that has to be shortened.

    Of a pair one text is short: where both are too long, tokenizers share an odd room out in their own way.
    """
    made, _ = sample.generate(5, seed=11)
    first = [*made, "", " ".join(made) * 10, "yes"]
    second = ["no", "a", "", "yes", "so", made[0], "no", " ".join(made) * 10] if paired else None
    return Rows(first, second, np.zeros(len(first), np.int64))


def check(source: Source, folder: Path, kind: Any) -> None:
    """Load `folder` as a stranger would, with the model class `kind`. Raises UserError where its logits differ."""
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


def logits(source: Source, rows: Rows) -> NDArray[np.float32]:
    """The run's own: (N, outputs); where it labels words, of every token of every row, (total, outputs)."""
    trained, spec = source.trained, source.spec
    own = source.objective.placeholder_rows(rows.texts, rows.pairs, len(source.labels))
    data = encode(own, trained.tokenizer, spec.representation, spec.max_length)
    return outputs.logits(trained.adapted.model, data.at_every_token(), trained.hardware)


def flat(found: NDArray[np.float32], there: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, outputs) as it is; (B, T, outputs) -> (total, outputs), without padding."""
    return found if found.ndim == 2 else found[there.astype(bool)]


def distance(wanted: Any, found: Any, source: Source) -> float:
    """Largest difference of two logits beside the largest of what they are summed of."""
    scale = max(float(np.abs(wanted).max()), float(source.head.bias.detach().abs().max()))
    return float(np.abs(wanted - found).max()) / scale
