"""How an audit sets gradients: at the trained head, or, where there is none, at the final hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpft.audit.mechanism import gradient_canaries, hidden_canaries
from dpft.audit.mechanism.canary_gradients import CanaryModel, RowSettings
from dpft.audit.mechanism.canary_scores import Canaries
from dpft.audit.mechanism.hidden_canaries import HiddenCanaryModel
from dpft.data.encoded import Encoded
from dpft.inference.trained_model import Trained
from dpft.models.adapted import AdaptedModel
from dpft.tokens.encode import encode


class Strategy(Protocol):
    """The auditor's rows in one kind of model."""

    def canaries(self, trained: Trained, clip: float) -> Canaries:
        """Rows with orthogonal clipped gradients of known direction."""

    def encoded(self, trained: Trained, texts: Sequence[str]) -> Encoded:
        """Texts as rows that a canary model recognises by their number."""

    def row_settings(self, trained: Trained, sides: NDArray[np.int64], turned: NDArray[np.bool_]) -> RowSettings:
        """Settings with which the gradients of `turned` rows, (N,), oppose those they would have."""

    def model(self, adapted: AdaptedModel, settings: RowSettings, clip: float) -> CanaryModel:
        """The model under audit, with these settings."""


class AtTheHead:
    def canaries(self, trained: Trained, clip: float) -> Canaries:
        return gradient_canaries.make_canaries(trained, clip)

    def encoded(self, trained: Trained, texts: Sequence[str]) -> Encoded:
        spec = trained.run.spec
        rows = gradient_canaries.numbered(trained, texts, texts if trained.paired else None)
        found = encode(rows, trained.tokenizer, spec.representation, spec.max_length)
        return gradient_canaries.prepared(trained, found)

    def row_settings(self, trained: Trained, sides: NDArray[np.int64], turned: NDArray[np.bool_]) -> RowSettings:
        return RowSettings.of(trained.objective.opposing(sides, turned, trained.adapted.model.output_count))

    def model(self, adapted: AdaptedModel, settings: RowSettings, clip: float) -> CanaryModel:
        return CanaryModel(adapted, settings, clip)


class AtTheHiddenStates:
    """Texts are cut into windows as in training, which are one unit; ghost norms exist for rows of one window only."""

    def canaries(self, trained: Trained, clip: float) -> Canaries:
        return hidden_canaries.make_canaries(trained, clip)

    def encoded(self, trained: Trained, texts: Sequence[str]) -> Encoded:
        spec = trained.run.spec
        rows = trained.objective.placeholder_rows(texts, None, 0)
        if trained.adapted.gradients == "ghost":
            assert rows.documents is not None
            rows = replace(rows, documents=replace(rows.documents, windows=1))
        return hidden_canaries.numbered(encode(rows, trained.tokenizer, spec.representation, spec.max_length))

    def row_settings(self, trained: Trained, sides: NDArray[np.int64], turned: NDArray[np.bool_]) -> RowSettings:
        return RowSettings.of(sides, hidden_canaries.side_factors(turned.tolist()))

    def model(self, adapted: AdaptedModel, settings: RowSettings, clip: float) -> CanaryModel:
        return HiddenCanaryModel(adapted, settings, clip)


def of(trained: Trained) -> Strategy:
    """The strategy for a run's model."""
    return AtTheHead() if trained.adapted.model.head_parameters() else AtTheHiddenStates()
