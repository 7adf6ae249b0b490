"""The next token of a text: language models that write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpft.data.documents import ASSISTANT, Documents, control_code
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.objectives._canaries import CanaryTexts, Ingredients, made_up_secret
from dpft.objectives._objective import ExportTarget, Floats, Labels, Metric, Objective, Wording
from dpft.spec import Spec, canonical_json

_MOST = 50.0  # nats a token, so that the perplexity of a model that has diverged is finite


@dataclass(frozen=True)
class Continuation:
    """What a model writes after a prompt. finish_reason: `stop` (it ended its text) or `length` (it was cut)."""

    text: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class LanguageModelling(Objective):
    """Cross-entropy of the next token, over the judged tokens of one row and of no other.

    A model's outputs are (B, 2): the negative log-likelihood in nats, summed over a row's judged tokens, and their
    number. token_loss: a row's loss is their `mean` or their `sum`; 0 for a row without judged tokens. chat: texts are
    chats. windows: most windows of `max_length` tokens that a text is cut into. Labels: (N,) int64, the number of a
    row's control code.
    """

    token_loss: Literal["mean", "sum"] = "mean"
    chat: bool = False
    windows: int = Spec.max_windows
    max_length: int = Spec.max_length

    kind = "language-model"
    metrics = (Metric("perplexity", higher_is_better=False, worst=math.exp(_MOST)),)
    further = (Metric("loss", higher_is_better=False, worst=_MOST),)
    representations = ("none",)
    drift = drift_alone = None
    export = ExportTarget(
        None,
        auto_class="AutoModelForCausalLM",
        custom_class=None,
        formats="text_formats",
        peft_base="AutoModelForCausalLM",
        peft_task="CAUSAL_LM",
        pipeline="text-generation",
        called="write",
        given=", max_new_tokens=64, do_sample=False",
    )
    wording = Wording(
        model="language model",
        inputs="prompts",
        outputs="it writes text",
        reading="",
        verb="write",
        gives="writes text",
    )
    from_column = False
    has_control_codes = True
    joined = 4  # about 60 tokens

    def configured(self, spec: Spec) -> LanguageModelling:
        return replace(
            self, token_loss=spec.token_loss, chat=spec.messages is not None, windows=spec.max_windows,
            max_length=spec.max_length,
        )  # fmt: skip

    def card_lines(self, labels: Labels, paired: bool) -> list[str]:
        """What the model was trained to write after."""
        if self.chat:
            return ["It was trained on the assistant's turns of chats, in the tokenizer's chat template."]
        if labels:
            return [
                "It was trained to write after control codes: a prompt begins with "
                f"`{control_code('NAME').rstrip()}` and a line break, where NAME is one of {', '.join(labels)}; "
                "a further prompt, if there is one, follows."
            ]
        return [f"It was trained {'to write after prompts' if paired else 'on whole texts, without prompts'}."]

    def check(self, values: NDArray[Any], labels: Labels, split: str) -> None:
        bad = np.flatnonzero(~np.isin(values, np.arange(max(1, len(labels)))))
        if len(bad):
            raise UserError(
                f"{split} labels must be numbers of {len(labels)} control codes, got others, the first in row "
                f"{bad[0] + 1}; check --label"
            )

    def blank(self, rows: int, labels: int) -> NDArray[Any]:
        return np.zeros(rows, np.int64)

    def placeholder_rows(self, texts: Sequence[str], pairs: Sequence[str] | None, labels: int) -> Examples:
        """Texts alone: prompts might leave no room in a short window, and tell nothing of a model."""
        return Examples(texts, None, self.blank(len(texts), labels), documents=Documents(windows=self.windows))

    def outputs(self, labels: int) -> int:
        """A language model has no head."""
        return 0

    def output_names(self, labels: Labels) -> Labels:
        return ()

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        total, count = outputs[:, 0], outputs[:, 1]
        return total if self.token_loss == "sum" else total / count.clamp(min=1)

    def of_windows(self, losses: Tensor, shares: Tensor) -> Tensor:
        return losses if self.token_loss == "sum" else losses * shares

    def score(self, metrics: Sequence[str], outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """Over the judged tokens of all rows: loss in nats a token, and its exponential."""
        loss = _loss(outputs)
        found = {"loss": loss, "perplexity": math.exp(min(_MOST, loss))}
        return {metric: found[metric] for metric in metrics}

    def details(self, outputs: Floats, rows: Examples, labels: Labels) -> dict[str, float]:
        """The loss in nats a token; without prompts, bits per byte of the texts that were read whole."""
        found = {"loss": _loss(outputs)}
        if rows.pairs is None and not self.chat:
            found |= self._bits_per_byte(outputs, rows)
        return found

    def _bits_per_byte(self, outputs: Floats, rows: Examples) -> dict[str, float]:
        whole = outputs[:, 1] < self.windows * (self.max_length - 1)  # the judged tokens of a text that is cut
        size = sum(len(text.encode("utf-8", "replace")) for text, read in zip(rows.texts, whole, strict=True) if read)
        return {"bits_per_byte": float(outputs[whole, 0].sum(dtype=np.float64) / math.log(2) / size)} if size else {}

    def read(self, outputs: Floats, rows: Examples, labels: Labels) -> Sequence[Any]:
        raise UserError("a language model's texts are not read from its loss, got a call that does; call `write`")

    def printed(self, found: Any, text: str) -> str:
        """What the model wrote, without its prompt."""
        return str(found.text)

    def to_json(self, found: Any) -> dict[str, Any]:
        return asdict(found)

    def least_likely(self, outputs: Tensor) -> Tensor:
        raise NotImplementedError("the audit of language models sets gradients otherwise")

    def opposing(self, sides: NDArray[np.int64], turned: NDArray[np.bool_], outputs: int) -> Tensor:
        raise NotImplementedError("the audit of language models sets gradients otherwise")

    def canaries(self, of: Ingredients, labels: Labels, paired: bool, rng: Random) -> CanaryTexts:
        """Made-up secrets: "The code of NAME is DIGITS." With prompts, all but the digits is the prompt."""
        every = [made_up_secret(rng) for _ in range(len(of))]
        numbers = np.array([rng.randrange(max(1, len(labels))) for _ in every], np.int64)
        codes = [control_code(labels[number]) for number in numbers] if len(labels) > 1 else None
        asked, secrets = tuple(question for question, _ in every), tuple(answer for _, answer in every)
        prompts: Sequence[str] | None = codes
        if self.chat:
            texts = [canonical_json(_chat(question, f"{answer}.")) for question, answer in every]
        elif paired and codes is None:
            texts, prompts = [f" {answer}." for answer in secrets], asked
        else:
            texts = [f"{question} {answer}." for question, answer in every]
        prefixes = asked if codes is None else tuple(map("".join, zip(codes, asked, strict=True)))
        rows = Examples(texts, prompts, numbers, documents=Documents(self.chat, self.windows))
        return CanaryTexts(rows, np.ones(len(of), bool), prefixes, secrets)


OBJECTIVE = LanguageModelling


def _chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": ASSISTANT, "content": answer}]


def _loss(outputs: Floats) -> float:
    total, count = outputs.astype(np.float64).sum(0)
    return min(_MOST, float(total / count)) if count else 0.0
