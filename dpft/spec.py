"""What a run is: Budget, Spec and Machine. Validated once, on construction; JSON both ways."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from dpft.errors import UserError

Representation = Literal["mask", "cls", "mean", "token"]
Schedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adam", "adam_bc", "adam_scaled", "sgd"]
Clipping = Literal["cut", "normalise"]
Precision = Literal["auto", "fp32", "bf16"]
ClassWeights = Mapping[str, float] | Literal["balanced"]

# What the recipe chooses where a spec does not say.
RECIPE = ("batch_size", "epochs", "clip", "learning_rate", "head_learning_rate")
HEAD = "head."  # what the names of the head's tensors begin with
_MOST_SHOWN, _FEW = 200, 8
MAX_PER_UNIT = 32  # as many short texts as fit into a micro-batch or two


def _require(ok: bool, rule: str, found: object, remedy: str) -> None:
    if not ok:
        raise UserError(f"{rule}, got {shown(found)}; {remedy}")


def shown(value: object) -> str:
    """`value` as an error may quote it: numbers, short words and few of them; of all else, a table say, its type.

    Whoever passes data where a name belongs must not find their rows in a log.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= _MOST_SHOWN else f"a text of {len(value):,} characters"
    if isinstance(value, (list, tuple)):
        few = len(value) <= _FEW and all(one is None or isinstance(one, (bool, int, float)) for one in value)
        return repr(value) if few else f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, Budget):
        return repr(value)
    return f"a {type(value).__name__}"


def _is_positive(value: object) -> bool:
    """True for a finite number above zero; False for NaN, infinities, booleans and non-numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_numbers(value: object) -> bool:
    """True for names with a finite number above zero each, of which there is one at least."""
    return isinstance(value, Mapping) and len(value) > 0 and all(map(_is_positive, value.values()))


def _one_of(value: object, choices: tuple[str, ...], name: str) -> None:
    _require(
        isinstance(value, str) and value in choices,
        f"{name} must be one of {', '.join(choices)}",
        value,
        f"pass --{name}",
    )


def average_of(spelled: str) -> tuple[str, float]:
    """Kind and number of a spelled average: ema:0.9 is ("ema", 0.9), none is ("none", 0.0). Raises UserError."""
    if isinstance(spelled, str) and spelled == "none":
        return "none", 0.0
    kind, _, number = str(spelled).partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    known = (kind == "ema" and 0 < value < 1) or (kind == "tail" and 0 < value <= 1)
    rule = "average must be none, ema:DECAY with a decay below 1, or tail:SHARE with a share of at most 1"
    _require(known, rule, spelled, "pass --average tail:0.5")
    return kind, value


@dataclass(frozen=True)
class Budget:
    """The most privacy a run may spend: (epsilon, delta)-DP, Dwork and Roth 2014, definition 2.4."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _require(_is_positive(self.epsilon), "epsilon must be a finite number above 0", self.epsilon, "pass --epsilon")
        _require(
            _is_positive(self.delta) and self.delta < 1,
            "delta must lie between 0 and 1 (and below 1/examples)",
            self.delta,
            "pass --delta",
        )


def rows_name(task: str, data: str | None) -> str:
    """The task's name; of files of one's own, the name of the file or folder."""
    return Path(data).stem if data and task.endswith("files") else task


@dataclass(frozen=True)
class Spec:
    """All that decides a run's result. The same spec means the same experiment.

    `options` belong to the method, `data` is where the task's files lie (None: the task's own source),
    `budget=None` trains without clipping and noise: NOT PRIVATE. `epochs` is the expected number of times
    an example is drawn. `batch_size`, `epochs`, `clip`, `learning_rate` and `head_learning_rate` are the recipe's where
    they are None (dpft.recipe); a run's own spec holds what it chose. A head without a rate of its own has that of the
    rest; `tensor_scales`: what the rate of each other tensor is multiplied by, where not by 1. `chosen`: the names of
    what the recipe chose.
    `unit` is whom privacy is promised to: an example, or all examples with one value in the column it names, of which
    the first `max_per_unit` count; batch size and epochs are then of units. `warmup`: share of the steps in which the
    learning rate rises. `average`: none, ema:DECAY or tail:SHARE, of the weights of all or the last steps.
    `probe_first`: share of the steps that train the head alone. `canaries`: made-up rows that are planted among the
    training data, each by a fair coin, for an audit.
    Of files of one's own, `text`, `pair` and `label` name columns (a,b,c: one for each label), `validation` a second
    file, `kind` and `labels` (names, or a score's lowest and highest) state what is otherwise read off the labels.
    `class_weights`: what a mistake on each class costs, or "balanced": 1 / its share, of the `shares` that are stated.
    `start`: the folder of a finished run whose weights this one begins with; `start_public`: whoever runs this states
    that its rows, and those of the runs before it, are other people's. `representation`: what the head reads;
    training makes it `token` where words are labelled. Raises UserError on values out of range.
    """

    task: str = "sample"
    data: str | None = None
    model: str = "builtin"
    method: str = "slash"
    options: Mapping[str, Any] = field(default_factory=dict)
    representation: Representation = "mean"
    budget: Budget | None = None
    batch_size: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    tensor_scales: Mapping[str, float] | None = None
    chosen: tuple[str, ...] = ()
    schedule: Schedule = "linear"
    clip: float | None = None
    clipping: Clipping = "cut"
    optimizer: Optimizer = "adam"
    warmup: float = 0.06
    average: str = "none"
    probe_first: float = 0.0
    max_length: int = 128
    unit: str = "example"
    max_per_unit: int | None = None
    seed: int = 0
    canaries: int = 0
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    validation: str | None = None
    kind: str | None = None
    labels: tuple[str, ...] | None = None
    class_weights: ClassWeights | None = None
    shares: Mapping[str, float] | None = None
    start: str | None = None
    start_public: bool = False

    def __post_init__(self) -> None:
        for name in ("task", "model", "method", "unit"):
            value = getattr(self, name)
            _require(isinstance(value, str) and value != "", f"{name} must be a name", value, f"pass --{name}")
        _require(
            self.data is None or isinstance(self.data, str), "data must be a file or a folder", self.data,
            "pass --data PATH",
        )  # fmt: skip
        for name in ("text", "pair", "label", "validation", "kind"):
            value = getattr(self, name)
            _require(
                value is None or (isinstance(value, str) and value != ""), f"{name} must be a name", value,
                f"pass --{name}",
            )  # fmt: skip
        _require(self.start is None or isinstance(self.start, str), "from must be a run", self.start, "pass --from RUN")
        _require(
            isinstance(self.start_public, bool), "start_public must be true or false", self.start_public, "mend it"
        )
        _require(
            self.start is not None or not self.start_public, "what is stated of a start needs one", None, "pass --from"
        )
        self._settle_labels()
        self._settle_weights()
        given = [name for name in RECIPE if getattr(self, name) is not None]
        rates = [name for name in given if name.endswith("rate")]
        for name in (one for one in given if one != "batch_size"):
            flag, value = name.replace("_", "-"), getattr(self, name)
            _require(_is_positive(value), f"{flag} must be a finite number above 0", value, f"pass --{flag}")
        for name in rates:
            flag, value = name.replace("_", "-"), getattr(self, name)
            _require(1e-12 <= value <= 100, f"{flag} must lie between 1e-12 and 100", value, f"pass --{flag}")
        _require(
            self.clip is None or 1e-6 <= self.clip <= 1e6,
            "clip must lie between 1e-6 and 1e6",
            self.clip,
            "pass --clip",
        )
        _require(
            self.batch_size is None or _is_whole(self.batch_size, 1), "batch-size must be a whole number above 0",
            self.batch_size, "pass --batch-size",
        )  # fmt: skip
        _require(
            _is_whole(self.max_length, 8), "max-length must be a whole number of at least 8 tokens",
            self.max_length, "pass --max-length",
        )  # fmt: skip
        _require(
            _is_whole(self.seed, 0) and self.seed < 2**63, "seed must be a whole number from 0 to 2^63 - 1",
            self.seed, "pass --seed",
        )  # fmt: skip
        _require(
            _is_whole(self.canaries, 0) and (self.canaries == 0 or self.canaries >= 8),
            "canaries must be 0, or a whole number of at least 8", self.canaries, "pass --canaries",
        )  # fmt: skip
        _require(
            self.canaries == 0 or self.unit == Spec.unit, "canaries are single examples, so that the unit must be one",
            self.unit, "drop --unit or --canaries",
        )  # fmt: skip
        _one_of(self.representation, get_args(Representation), "representation")
        _one_of(self.schedule, get_args(Schedule), "schedule")
        _one_of(self.optimizer, get_args(Optimizer), "optimizer")
        _one_of(self.clipping, get_args(Clipping), "clipping")
        for name in ("warmup", "probe_first"):
            flag, value = name.replace("_", "-"), getattr(self, name)
            none = isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0
            share = none or (_is_positive(value) and value < 1)
            _require(share, f"{flag} must be a share of the steps, from 0 to below 1", value, f"pass --{flag} 0.1")
        scales = self.tensor_scales
        rule = "tensor_scales must be a number above 0 for each tensor"
        _require(scales is None or _are_numbers(scales), rule, scales, "mend the spec file")
        _require({*self.chosen} <= {*RECIPE}, "chosen must name what a recipe chooses", self.chosen, "mend the spec")
        object.__setattr__(self, "chosen", tuple(self.chosen))
        average_of(self.average)
        _require(isinstance(self.options, Mapping), "options must be key=value", self.options, "pass --option")
        object.__setattr__(self, "options", dict(self.options))
        self._settle_unit()

    def _settle_labels(self) -> None:
        if self.labels is None:
            return
        rule, remedy = "labels must be at least two different names (one will do for words)", "pass --labels a,b"
        listed = isinstance(self.labels, (list, tuple)) and all(isinstance(x, str) and x for x in self.labels)
        _require(listed and len(set(self.labels)) == len(self.labels) >= 1, rule, self.labels, remedy)
        object.__setattr__(self, "labels", tuple(self.labels))

    def _settle_weights(self) -> None:
        weights, shares = self.class_weights, self.shares
        balanced = isinstance(weights, str) and weights == "balanced"
        if weights is not None and not balanced:
            rule = "class-weights must be balanced, or a number above 0 for each class"
            _require(_are_numbers(weights), rule, weights, "pass --class-weights a=1,b=20")
        if shares is None:
            rule = "balanced class-weights follow from the classes' shares, which nobody may count in private rows"
            _require(not balanced, rule, None, "state them: --shares a=0.95,b=0.05")
            return
        _require(balanced, "shares go with balanced class-weights", weights, "pass --class-weights balanced")
        rule = "shares must be a number above 0 for each class"
        _require(_are_numbers(shares), rule, shares, "pass --shares a=0.95,b=0.05")
        total = round(sum(shares.values()), 6)
        _require(abs(total - 1) <= 0.001, "shares must sum to 1", total, "mend --shares")

    def _settle_unit(self) -> None:
        if self.unit == Spec.unit:
            _require(
                self.max_per_unit is None, "max-per-unit goes with a unit of several examples", self.max_per_unit,
                "pass --unit COLUMN too",
            )  # fmt: skip
        elif self.max_per_unit is None:
            object.__setattr__(self, "max_per_unit", MAX_PER_UNIT)
        _require(
            self.max_per_unit is None or _is_whole(self.max_per_unit, 1), "max-per-unit must be a whole number above 0",
            self.max_per_unit, "pass --max-per-unit",
        )  # fmt: skip

    @property
    def rows_name(self) -> str:
        return rows_name(self.task, self.data)

    def probe_steps(self, steps: int) -> int:
        """How many of a run's `steps` train the head alone: its first ones."""
        return round(self.probe_first * steps)

    def asked(self) -> Spec:
        """The spec as it was before the recipe chose: that is what tells one experiment from another."""
        if not self.chosen:
            return self
        free: dict[str, Any] = dict.fromkeys(self.chosen)
        if "learning_rate" in self.chosen:
            free["tensor_scales"] = None
        return dataclasses.replace(self, **free, chosen=())

    def stating(self, **values: Any) -> Spec:
        """The spec with `values` given by somebody: what the recipe had chosen in their place is its choice no more."""
        left = tuple(name for name in self.chosen if name not in values)
        return dataclasses.replace(self, **{"chosen": left, **values})

    def to_json(self) -> dict[str, Any]:
        """A plain dict with a `budget` of {epsilon, delta} or None; `from_json` reads it back.

        A head without a rate of its own is not named, nor is what nobody stated: digests of specs from before either
        could be stay as they are.
        """
        values = dataclasses.asdict(self)
        if values["head_learning_rate"] is None:
            del values["head_learning_rate"]
        if not values["start_public"]:
            del values["start_public"]
        for name in ("class_weights", "shares", "tensor_scales"):
            if values[name] is None:
                del values[name]
        if not values["chosen"]:
            del values["chosen"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spec:
        """The Spec that `to_json` wrote. Raises UserError on an unknown or malformed field."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        _require(not unknown, f"a spec's fields are {', '.join(known)}", unknown, "remove or rename them")
        values = dict(values)
        budget = values.get("budget")
        if budget is not None:
            _require(
                isinstance(budget, Mapping) and set(budget) == {"epsilon", "delta"},
                "budget must be null or {epsilon, delta}", budget, "mend the spec file",
            )  # fmt: skip
            values["budget"] = Budget(**budget)
        return cls(**values)


@dataclass(frozen=True)
class Machine:
    """All that decides speed and nothing that decides privacy.

    `device` is a torch device or "auto"; `precision` is the frozen encoder's; `tokens_per_microbatch` bounds
    rows times longest row, None picks by device.
    """

    device: str = "auto"
    precision: Precision = "auto"
    tokens_per_microbatch: int | None = None

    def __post_init__(self) -> None:
        _one_of(self.precision, get_args(Precision), "precision")
        _require(
            self.tokens_per_microbatch is None or _is_whole(self.tokens_per_microbatch, 1),
            "tokens-per-microbatch must be a whole number above 0", self.tokens_per_microbatch,
            "pass --tokens-per-microbatch",
        )  # fmt: skip


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII, no NaN. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def steps_of(spec: Spec, examples: int) -> int:
    """ceil(epochs * examples / batch_size) in exact decimals: 1.1 * 3000 / 300 is 11 steps, where floats make it 12.

    Both numbers must be settled.
    """
    assert spec.epochs is not None
    assert spec.batch_size is not None
    return math.ceil(Fraction(repr(float(spec.epochs))) * examples / spec.batch_size)
