"""Budget, Spec and Machine: everything that defines a run. Validated on construction; written to and read from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from dpft.errors import are_numbers, is_positive, is_whole, require, require_name, require_one_of, require_whole

Representation = Literal["mask", "cls", "mean", "token", "none"]
Schedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adam", "adam_scaled", "sgd"]
Clipping = Literal["cut", "normalise"]
Precision = Literal["auto", "fp32", "bf16"]
TokenLoss = Literal["mean", "sum"]
ClassWeights = Mapping[str, float] | Literal["balanced"]

EXAMPLE = "example"  # the default unit of privacy
BUILTIN_LM = "builtin-lm"  # the built-in model of tasks that write
HEAD = "head."  # prefix of the names of the head's tensors
MAX_PER_UNIT = 32  # as many short texts as fit into a micro-batch or two
# Fields that the recipe chooses if the spec leaves them open.
RECIPE = ("batch_size", "epochs", "clip", "learning_rate", "head_learning_rate", "optimizer")
# Fields that later versions added: not in the JSON at their defaults, so that digests of older specs do not change.
_ADDED = (
    "head_learning_rate", "start_public", "class_weights", "shares", "tensor_scales", "chosen", "prompt", "messages",
    "max_windows", "token_loss",
)  # fmt: skip
# Fields of earlier versions, with the value at which they had no effect: a spec with that value is read without them.
_GONE = {"average": "none", "probe_first": 0.0}


@dataclass(frozen=True)
class Budget:
    """The most privacy a run may spend: (epsilon, delta)-DP, Dwork and Roth 2014, definition 2.4."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        require(is_positive(self.epsilon), "epsilon must be a finite number above 0", self.epsilon, "pass --epsilon")
        require(
            is_positive(self.delta) and self.delta < 1,
            "delta must lie between 0 and 1 (and below 1/examples)",
            self.delta,
            "pass --delta",
        )


def rows_name(task: str, data: str | None) -> str:
    """The name of the data in titles: the task's; for the user's own files, the name of the file or folder."""
    return Path(data).stem if data and task.endswith("files") else task


def own_data_task(named: Iterable[str]) -> str:
    """The task of the user's own data where none is stated, from the names of the spec's fields that are."""
    return "text/files" if {"prompt", "messages"} & {*named} else "files"


@dataclass(frozen=True)
class DataFields:
    """The data, the task, and the unit of privacy.

    task, data: the task and the path of its files (None: the task's own source).
    text, pair, label: columns of the user's own files (label: a,b,c for one column per label); validation: a second
    file; kind, labels: stated instead of read from the training labels (names, or the lowest and highest score).
    prompt, messages: where the model writes, the columns of what goes before the text, and of whole chats.
    class_weights: the cost of a mistake on each class, or "balanced": 1 / share, from the stated `shares`.
    max_length: tokens per text, at most; where the model writes, per window, of which a text has at most `max_windows`.
    token_loss: whether a text's loss is the mean or the sum over its tokens.
    unit: an example, or a column: then all examples with the same value in it are one unit, of which the first
    `max_per_unit` are used. Batch size and epochs count units.
    canaries: number of synthetic rows for an audit; a fair coin decides for each whether it is trained on.
    """

    task: str = "sample"
    data: str | None = None
    text: str | None = None
    pair: str | None = None
    prompt: str | None = None
    messages: str | None = None
    label: str | None = None
    validation: str | None = None
    kind: str | None = None
    labels: tuple[str, ...] | None = None
    class_weights: ClassWeights | None = None
    shares: Mapping[str, float] | None = None
    max_length: int = 128
    max_windows: int = 8
    token_loss: TokenLoss = "mean"
    unit: str = EXAMPLE
    max_per_unit: int | None = None
    canaries: int = 0

    def _check_data(self) -> None:
        require_name(self.task, "task")
        rule = "data must be a file or a folder"
        require(self.data is None or isinstance(self.data, str), rule, self.data, "pass --data PATH")
        for flag in ("text", "pair", "prompt", "messages", "label", "validation", "kind"):
            if getattr(self, flag) is not None:
                require_name(getattr(self, flag), flag)
        require_whole(self.max_length, 8, "max-length must be a whole number of at least 8 tokens", "pass --max-length")
        require_whole(self.max_windows, 1, "max-windows must be a whole number above 0", "pass --max-windows")
        require_one_of(self.token_loss, get_args(TokenLoss), "token-loss")
        few = is_whole(self.canaries, 0) and (self.canaries == 0 or self.canaries >= 8)
        require(few, "canaries must be 0, or a whole number of at least 8", self.canaries, "pass --canaries")
        self._settle_labels()
        self._check_weights()
        self._settle_unit()

    def _settle_labels(self) -> None:
        if self.labels is None:
            return
        rule, remedy = "labels must be at least two different names (one will do for words)", "pass --labels a,b"
        listed = isinstance(self.labels, (list, tuple)) and all(isinstance(x, str) and x for x in self.labels)
        require(listed and len(set(self.labels)) == len(self.labels) >= 1, rule, self.labels, remedy)
        object.__setattr__(self, "labels", tuple(self.labels))

    def _check_weights(self) -> None:
        weights, shares = self.class_weights, self.shares
        balanced = isinstance(weights, str) and weights == "balanced"
        if weights is not None and not balanced:
            rule = "class-weights must be balanced, or a number above 0 for each class"
            require(are_numbers(weights), rule, weights, "pass --class-weights a=1,b=20")
        if shares is None:
            rule = "balanced class-weights follow from the classes' shares, which nobody may count in private rows"
            require(not balanced, rule, None, "state them: --shares a=0.95,b=0.05")
            return
        require(balanced, "shares go with balanced class-weights", weights, "pass --class-weights balanced")
        rule = "shares must be a number above 0 for each class"
        require(are_numbers(shares), rule, shares, "pass --shares a=0.95,b=0.05")
        total = round(sum(shares.values()), 6)
        require(abs(total - 1) <= 0.001, "shares must sum to 1", total, "correct --shares")

    def _settle_unit(self) -> None:
        require_name(self.unit, "unit")
        alone = self.canaries == 0 or self.unit == EXAMPLE
        rule = "canaries are single examples, so that the unit must be one"
        require(alone, rule, self.unit, "drop --unit or --canaries")
        if self.unit == EXAMPLE:
            require(
                self.max_per_unit is None, "max-per-unit goes with a unit of several examples", self.max_per_unit,
                "pass --unit COLUMN too",
            )  # fmt: skip
        elif self.max_per_unit is None:
            object.__setattr__(self, "max_per_unit", MAX_PER_UNIT)
        require(
            self.max_per_unit is None or is_whole(self.max_per_unit, 1), "max-per-unit must be a whole number above 0",
            self.max_per_unit, "pass --max-per-unit",
        )  # fmt: skip

    @property
    def rows_name(self) -> str:
        """The name of the data in titles."""
        return rows_name(self.task, self.data)


@dataclass(frozen=True)
class ModelFields:
    """The model and the fine-tuning method.

    options: options of the method. representation: what the head reads; training sets it to `token` for word labels.
    seed: public, for initialisation and random projections only.
    start: the folder of a finished run whose weights this run begins with. start_public: the user states that the rows
    of `start`, and of the runs before it, are other people's.
    """

    model: str = "builtin"
    method: str = "slash"
    options: Mapping[str, Any] = field(default_factory=dict)
    representation: Representation = "mean"
    seed: int = 0
    start: str | None = None
    start_public: bool = False

    def _check_model(self) -> None:
        require_name(self.model, "model")
        require_name(self.method, "method")
        require(isinstance(self.options, Mapping), "options must be key=value", self.options, "pass --option")
        object.__setattr__(self, "options", dict(self.options))
        require_one_of(self.representation, get_args(Representation), "representation")
        seed = is_whole(self.seed, 0) and self.seed < 2**63
        require(seed, "seed must be a whole number from 0 to 2^63 - 1", self.seed, "pass --seed")
        require(self.start is None or isinstance(self.start, str), "from must be a run", self.start, "pass --from RUN")
        public = self.start_public
        require(isinstance(public, bool), "start_public must be true or false", public, "correct it")
        require(self.start is not None or not public, "start_public needs a run to start from", None, "pass --from")


@dataclass(frozen=True)
class OptimisationFields:
    """The optimisation. The recipe (dpft.recipe) chooses `batch_size`, `epochs`, `clip`, the learning rates and
    `optimizer` if they are None. The spec of a run holds the chosen values, and `chosen` names these fields.

    epochs: the expected number of times that each unit is drawn.
    head_learning_rate: None for the same rate as the rest. tensor_scales: factors on the learning rate of the other
    tensors, by name; 1 for those not named.
    clip: the clipping norm. clipping: `cut` gradients above it, or `normalise` all of them.
    warmup: the share of the steps in which the learning rate rises.
    """

    batch_size: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    tensor_scales: Mapping[str, float] | None = None
    chosen: tuple[str, ...] = ()
    clip: float | None = None
    clipping: Clipping = "cut"
    optimizer: Optimizer | None = None
    schedule: Schedule = "linear"
    warmup: float = 0.06

    def _check_optimisation(self) -> None:
        for name in ("epochs", "clip", "learning_rate", "head_learning_rate"):
            flag, value = name.replace("_", "-"), getattr(self, name)
            if value is not None:
                require(is_positive(value), f"{flag} must be a finite number above 0", value, f"pass --{flag}")
            if value is not None and name.endswith("rate"):
                require(1e-12 <= value <= 100, f"{flag} must lie between 1e-12 and 100", value, f"pass --{flag}")
        if self.clip is not None:
            require(1e-6 <= self.clip <= 1e6, "clip must lie between 1e-6 and 1e6", self.clip, "pass --clip")
        if self.batch_size is not None:
            require_whole(self.batch_size, 1, "batch-size must be a whole number above 0", "pass --batch-size")
        require_one_of(self.schedule, get_args(Schedule), "schedule")
        if self.optimizer is not None:
            require_one_of(self.optimizer, get_args(Optimizer), "optimizer")
        require_one_of(self.clipping, get_args(Clipping), "clipping")
        none = isinstance(self.warmup, (int, float)) and not isinstance(self.warmup, bool) and self.warmup == 0
        share = none or (is_positive(self.warmup) and self.warmup < 1)
        require(share, "warmup must be a share of the steps, from 0 to below 1", self.warmup, "pass --warmup 0.1")
        scales = self.tensor_scales
        rule = "tensor_scales must be a number above 0 for each tensor"
        require(scales is None or are_numbers(scales), rule, scales, "correct the spec file")
        require({*self.chosen} <= {*RECIPE}, "chosen must name what a recipe chooses", self.chosen, "correct the spec")
        object.__setattr__(self, "chosen", tuple(self.chosen))


@dataclass(frozen=True)
class Spec(OptimisationFields, ModelFields, DataFields):
    """Everything that determines an experiment: data, model and method, optimisation, budget.

    `budget=None` trains without clipping and noise: NOT PRIVATE. Raises UserError if a value is out of range.
    """

    budget: Budget | None = None

    def __post_init__(self) -> None:
        self._check_data()
        self._check_model()
        self._check_optimisation()

    def asked(self) -> Spec:
        """The spec before the recipe chose anything. It identifies the experiment."""
        if not self.chosen:
            return self
        free: dict[str, Any] = dict.fromkeys(self.chosen)
        if "learning_rate" in self.chosen:
            free["tensor_scales"] = None
        return dataclasses.replace(self, **free, chosen=())

    def stating(self, **values: Any) -> Spec:
        """A copy with these values set explicitly; they no longer count as chosen by the recipe."""
        left = tuple(name for name in self.chosen if name not in values)
        return dataclasses.replace(self, **{"chosen": left, **values})

    def to_json(self) -> dict[str, Any]:
        """A plain dict with a `budget` of {epsilon, delta} or None, which `from_json` reads.

        The fields of _ADDED are left out at their defaults.
        """
        values = dataclasses.asdict(self)
        for name in _ADDED:
            if values[name] == getattr(type(self), name):
                del values[name]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spec:
        """The Spec from what `to_json` wrote. Raises UserError on an unknown or malformed field."""
        known = [f.name for f in dataclasses.fields(cls)]
        values = {name: value for name, value in values.items() if name not in _GONE or value != _GONE[name]}
        unknown = sorted(set(values) - set(known))
        require(not unknown, f"a spec's fields are {', '.join(known)}", unknown, "remove or rename them")
        values = dict(values)
        budget = values.get("budget")
        if budget is not None:
            require(
                isinstance(budget, Mapping) and set(budget) == {"epsilon", "delta"},
                "budget must be null or {epsilon, delta}", budget, "correct the spec file",
            )  # fmt: skip
            values["budget"] = Budget(**budget)
        return cls(**values)


@dataclass(frozen=True)
class Machine:
    """Settings that affect speed but not privacy.

    device: a torch device, or "auto". precision: that of the frozen encoder. tokens_per_microbatch: upper bound on
    rows times the longest row; None chooses by device.
    """

    device: str = "auto"
    precision: Precision = "auto"
    tokens_per_microbatch: int | None = None

    def __post_init__(self) -> None:
        require_one_of(self.precision, get_args(Precision), "precision")
        require(
            self.tokens_per_microbatch is None or is_whole(self.tokens_per_microbatch, 1),
            "tokens-per-microbatch must be a whole number above 0", self.tokens_per_microbatch,
            "pass --tokens-per-microbatch",
        )  # fmt: skip


def canonical_json(value: Any) -> str:
    """Canonical JSON text of a value: sorted keys, no spaces, ASCII. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def steps_of(spec: Spec, examples: int) -> int:
    """The number of steps: ceil(epochs * examples / batch_size), in exact decimals.

    Floats would make 1.1 * 3000 / 300 12 steps instead of 11. `epochs` and `batch_size` must be set.
    """
    assert spec.epochs is not None
    assert spec.batch_size is not None
    return math.ceil(Fraction(repr(float(spec.epochs))) * examples / spec.batch_size)
