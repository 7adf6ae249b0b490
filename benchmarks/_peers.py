"""The baseline: LoRA by PEFT, made private by Opacus, written as in their manuals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from dpft.benchmarks._work import CLIP, NOISE, Work
from numpy.typing import NDArray
from opacus import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from dpft import models
from dpft.data.batch import Batch
from dpft.tokens.microbatch import microbatches

RANK = 8  # Hu et al. 2022, on the query and value projections
PHYSICAL = 64  # physical batch size of BatchMemoryManager


class OpacusLora:
    """Stock model and attention in float32 with dropout; LoRA r=8 and the head are trained by Opacus' own step.

    `rows`: expected logical batch size. `loader`: Poisson sampling from all training rows, tokenized beforehand.
    """

    precision = "fp32"

    def __init__(self, work: Work, rows: int, noise: float = NOISE) -> None:
        self.device, self.tokens, self.encoded = work.hardware.device, work.hardware.tokens, work.encoded("cls")
        stock = AutoModelForSequenceClassification.from_pretrained(
            models.locate(work.spec.model), num_labels=work.task.outputs, dtype=torch.float32, use_safetensors=True
        )
        config = LoraConfig(TaskType.SEQ_CLS, r=RANK, lora_alpha=RANK, target_modules=["query", "value"])
        model = get_peft_model(stock, config).to(self.device).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        tokenizer = models.tokenizer(work.spec.model)
        self.model, self.optimizer, self.loader = PrivacyEngine(accountant="rdp").make_private(
            module=model,
            optimizer=torch.optim.Adam(parameters, lr=1e-3),
            data_loader=DataLoader(_features(work, tokenizer), batch_size=rows, collate_fn=_padding(tokenizer)),  # type: ignore[arg-type]
            noise_multiplier=noise,
            max_grad_norm=CLIP,
            poisson_sampling=True,
        )
        self._check_that_it_trains()

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def descend(self, features: Mapping[str, torch.Tensor]) -> None:
        """Forward, backward and Opacus' step on one physical batch; the last of a logical batch updates the weights."""
        self.model(**{key: tensor.to(self.device) for key, tensor in features.items()}).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _check_that_it_trains(self) -> None:
        """Raise RuntimeError if nothing is trained, as with some versions of PEFT and Opacus (opacus issue 820)."""
        batch = next(microbatches(self.encoded, np.arange(4), 4 * self.encoded.lengths.max(), self.device))
        self.model(**_arguments(batch)).loss.backward()
        dead = [name for name, p in self.trained.items() if getattr(p, "grad_sample", None) is None]
        moving = [n for n, p in self.trained.items() if n not in dead and bool(p.grad_sample.any())]  # type: ignore[attr-defined]
        if dead or not any("lora_B" in name for name in moving):
            raise RuntimeError(f"LoRA must get a gradient per example, got none for {', '.join(dead) or 'lora_B'}")
        self.optimizer.zero_grad()


class OpacusByHand(OpacusLora):
    """The baseline in random order: physical batches of 64 rows, padded to their longest row, by BatchMemoryManager."""

    def __init__(self, work: Work, noise: float = NOISE) -> None:
        super().__init__(work, min(work.peer_rows, work.batch), noise)
        self.steps = self._steps()

    def __call__(self, drawn: NDArray[np.int64]) -> int:
        return next(self.steps)

    def _steps(self) -> Iterator[int]:
        """Train forever; yield the number of rows of each logical batch after its step."""
        while True:
            rows = 0
            with BatchMemoryManager(
                data_loader=self.loader, max_physical_batch_size=PHYSICAL, optimizer=self.optimizer
            ) as loader:
                for features in loader:
                    rows += len(features["labels"])
                    self.descend(features)
                    if not self.optimizer._is_last_step_skipped:
                        yield rows
                        rows = 0


class OpacusSorted(OpacusLora):
    """The baseline on our micro-batches, which a careful user could build: sorted by length, with a token budget."""

    def __init__(self, work: Work, noise: float = NOISE) -> None:
        super().__init__(work, work.batch, noise)

    def __call__(self, drawn: NDArray[np.int64]) -> int:
        batches = list(microbatches(self.encoded, drawn, self.tokens, self.device))
        for number, batch in enumerate(batches, start=1):
            self.optimizer.signal_skip_step(do_skip=number < len(batches))
            self.descend(_arguments(batch))
        return len(drawn)


def _arguments(batch: Batch) -> dict[str, torch.Tensor]:
    named = {
        "input_ids": batch.ids,
        "token_type_ids": batch.types,
        "attention_mask": None if batch.allowed is None else batch.allowed.long(),
        "labels": batch.labels,
    }
    return {key: tensor for key, tensor in named.items() if tensor is not None}


def _features(work: Work, tokenizer: Any) -> list[dict[str, Any]]:
    """Rows as dicts of lists, truncated and not yet padded."""
    rows = work.task.train
    found = tokenizer(
        list(rows.texts), None if rows.pairs is None else list(rows.pairs),
        truncation=True, max_length=work.spec.max_length,
    )  # fmt: skip
    labels = [float(x) if not work.task.labels else int(x) for x in rows.labels]
    return [{"labels": label, **{k: found[k][i] for k in found}} for i, label in enumerate(labels)]


def _padding(tokenizer: Any) -> Any:
    return DataCollatorWithPadding(tokenizer, padding="longest")
