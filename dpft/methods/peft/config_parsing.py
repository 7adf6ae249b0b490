"""Parses string options into the config of a `peft` tuner, by the fields and types of its dataclass."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from dpft.errors import UserError
from dpft.models.architectures import architecture
from dpft.models.architectures.stock_layers import Unflattened
from dpft.privacy.mechanism.grad_samplers import is_rms_norm

# Fields that are internal to peft, or that train other parameters than the tuner's.
_INTERNAL = {
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version",
    "runtime_config", "modules_to_save", "bias",
}  # fmt: skip
# Values for fields whose default in peft does not work.
_STARTS: dict[str, dict[str, Any]] = {"adalora": {"total_step": 1}}
# These need their own forward pass: a second model, input positions, task ids.
_OTHER_PASS = {"ADAPTION_PROMPT", "XLORA", "SHADOW", "POLY", "CARTRIDGE"}


def library() -> Any:
    """The installed `peft`. Raises UserError where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft
    except ImportError:
        raise UserError(
            "method peft needs the extra `peft`, got an installation without it; pip install 'dpft[peft]'"
        ) from None
    return peft


def types_known() -> list[str]:
    """The tuners that change layers of an encoder, by their name for `type`."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as tuners
    from peft.tuners.tuners_utils import BaseTuner

    return sorted(
        str(kind.value).lower()
        for kind, tuner in tuners.items()
        if isinstance(tuner, type) and issubclass(tuner, BaseTuner) and kind.value not in _OTHER_PASS
    )


def classes(kind: str) -> tuple[Any, Any]:
    """(config class, tuner class) of a type. Raises UserError for one that is unknown or changes the input length."""
    library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as tuners

    found = {str(key.value).lower(): key for key in configs}
    known = types_known()
    if kind.lower() in known:
        key = found[kind.lower()]
        return configs[key], tuners[key]
    listed = ", ".join(known)
    if kind.lower() not in found:
        raise UserError(f"type must be one of {listed}, got {kind!r}; pass --option type=lora")
    if found[kind.lower()].value in _OTHER_PASS - {"CARTRIDGE", "ADAPTION_PROMPT"}:
        raise UserError(
            f"type must be a tuner that changes the encoder's layers and nothing else ({listed}), got {kind!r}, "
            "which needs a forward pass of its own; pass --option type=lora"
        )
    raise UserError(
        f"type must be a tuner that leaves the input as long as it is, got {kind!r}, which learns a prompt; "
        "pass --method warp"
    )


def fields(kind: str) -> dict[str, Any]:
    """The options of a type, with the type of each."""
    config, _ = classes(kind)
    try:
        hints = get_type_hints(config)
    except (NameError, TypeError):
        hints = {}
    named = [f for f in dataclasses.fields(config) if f.init and f.name not in _INTERNAL]
    return {f.name: hints.get(f.name, type(f.default)) for f in named}


def converted(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` converted for the config. Raises UserError on unknown ones, on wrong types, and on dropout."""
    hints = fields(kind)
    unknown = sorted(set(settings) - set(hints))
    if unknown:
        raise UserError(
            f"the options of peft's {kind} are {', '.join(hints)}, got {', '.join(unknown)}; pass --option NAME=VALUE"
        )
    values = {key: _value(key, value, hints[key]) for key, value in settings.items()}
    for key, value in values.items():
        if _is_dropout(key) and value:
            raise UserError(
                f"{key} must be 0, for training draws no randomness but the secret one, got {value}; drop it"
            )
    return values


def config_of(kind: str, settings: Mapping[str, Any]) -> Any:
    """The tuner's config. Raises UserError where peft refuses the settings."""
    config, _ = classes(kind)
    hints = fields(kind)
    values = {**_STARTS.get(kind.lower(), {}), **{key: 0.0 for key in hints if _is_dropout(key)}}
    values.update(converted(kind, settings))
    with one_line(kind):
        return config(**values)


def default_targets(kind: str, backbone: Any) -> list[str]:
    """Target modules where peft has none for the architecture: layer norms for ln_tuning, else query and value."""
    if kind.lower() == "ln_tuning":
        norms = [n for n, m in backbone.named_modules() if isinstance(m, nn.LayerNorm) or is_rms_norm(m)]
        return sorted({name.rpartition(".")[2] for name in norms})
    row = architecture(backbone.config)
    return sorted({row.query, row.value})


def named_inside(backbone: nn.Module, targets: Sequence[str]) -> list[str]:
    """`targets` with the paths that layers have inside a wrapper of the architecture's (OPT's fc1 is fc1.stock)."""
    wrapped = [name for name, module in backbone.named_modules() if isinstance(module, Unflattened)]
    return [f"{t}.stock" if any(f".{name}".endswith(f".{t}") for name in wrapped) else t for t in targets]


@contextlib.contextmanager
def one_line(kind: str) -> Iterator[None]:
    """Convert peft's errors on invalid options into one line, and silence its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:
        said = re.sub(r"\s+", " ", str(error)).strip()[:240] or type(error).__name__
        raise UserError(
            f"peft's {kind} must fit this model with these options, got: {said}; see its options with a wrong one"
        ) from None


def _is_dropout(key: str) -> bool:
    return "dropout" in key and not key.endswith("_scale")


def _value(key: str, value: Any, kind: Any) -> Any:
    """`value` as `kind` where it is a string; other values are left to the config."""
    if not isinstance(value, str):
        return value
    kinds = list(_kinds(kind))
    for read in (_none, _word, _bool, _whole, _number, _mapping, _list):
        found = read(value.strip(), kinds)
        if found is not _NOT:
            return found
    if str in kinds or Any in kinds or not kinds:
        return value
    wanted = " or ".join(dict.fromkeys(_name(k) for k in kinds if k is not type(None)))
    raise UserError(f"option {key} must be {wanted}, got {value!r}; pass --option {key}=...")


_NOT = object()


def _kinds(kind: Any) -> Iterator[Any]:
    """The members of a union, flattened."""
    if get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _kinds(part)
    else:
        yield kind


def _none(text: str, kinds: list[Any]) -> Any:
    return None if text.lower() == "none" and type(None) in kinds else _NOT


def _word(text: str, kinds: list[Any]) -> Any:
    return next((w for k in kinds if get_origin(k) is Literal for w in get_args(k) if str(w) == text), _NOT)


def _bool(text: str, kinds: list[Any]) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _NOT) if bool in kinds else _NOT


def _whole(text: str, kinds: list[Any]) -> Any:
    return int(text) if int in kinds and re.fullmatch(r"[+-]?\d+", text) else _NOT


def _number(text: str, kinds: list[Any]) -> Any:
    if float not in kinds:
        return _NOT
    try:
        return float(text)
    except ValueError:
        return _NOT


def _mapping(text: str, kinds: list[Any]) -> Any:
    if not text.startswith("{") or not any((get_origin(k) or k) is dict for k in kinds):
        return _NOT
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _NOT


def _list(text: str, kinds: list[Any]) -> Any:
    """Split at commas. A regular expression, or `all-linear`, stays one string where the option allows one."""
    lists = [k for k in kinds if (get_origin(k) or k) in (list, set, tuple)]
    if not lists or (str in kinds and (text == "all-linear" or re.search(r"[*^$|()\[\]\\+?]", text))):
        return _NOT
    inner = (get_args(lists[0]) or (str,))[0]
    try:
        return [inner(part.strip()) if inner in (int, float) else part.strip() for part in text.split(",") if part]
    except ValueError:
        return _NOT


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(str(word) for word in get_args(kind))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}
    if (get_origin(kind) or kind) in (list, set, tuple):
        return "a list joined by commas"
    return names.get(kind, str(getattr(kind, "__name__", kind)))
