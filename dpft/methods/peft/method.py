"""Any tuner of the installed `peft` that changes an encoder's layers (Mangrulkar et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpft.errors import UserError
from dpft.methods.peft.config_parsing import (
    classes,
    config_of,
    converted,
    default_targets,
    library,
    named_inside,
    one_line,
    types_known,
)
from dpft.methods.peft.config_parsing import fields as _fields
from dpft.methods.peft.gradient_probe import Copying, UnsupportedModel, Way, find_gradient_mode
from dpft.methods.peft.per_example_copies import bare, unwrapped, widen, with_copies
from dpft.models.adapted import AdaptedModel, CannotMerge, Traits, attached, plain
from dpft.models.architectures import replace
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel

ADAPTER = "default"


@dataclass(frozen=True)
class PeftAdapted(AdaptedModel):
    """`drawn`: names in the backbone of fixed tensors of the tuner, which are saved with its trained parameters.

    Another precision or version may draw or compute them differently.
    """

    drawn: tuple[str, ...] = ()

    def _saved(self) -> dict[str, Tensor]:
        backbone = self.model.backbone
        held = {_stock_name(n): t for n, t in [*backbone.named_buffers(), *backbone.named_parameters()]}
        return {**super()._saved(), **{f"drawn.{name}": held[name] for name in self.drawn}}


@dataclass(frozen=True)
class Peft:
    """Any layer tuner of the installed peft: lora, ia3, vera, oft, loha, ln_tuning, beft and others.

    type: the tuner. All other options are fields of that tuner's config, such as r, target_modules=query,value or
    init_weights; an unknown one lists them. Where peft has no target_modules for an architecture, they are its query
    and value layers. Only the tuner's forward pass is used: no rank schedule, no regulariser, no dropout. Per-example
    gradients are computed by hooks, on copies of each layer's parameters, in loops over them, or one example at a time;
    a comparison with the last on placeholder rows decides. The public seed decides the tuner's random values.
    """

    type: str = "lora"
    settings: Mapping[str, Any] = field(default_factory=dict)
    traits: ClassVar[Traits] = Traits(parameter_sharing=False, efficient_inference=True, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.001

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Peft:
        """From `type` and all other options as settings of that tuner."""
        return cls(str(options.get("type", cls.type)), {k: v for k, v in options.items() if k != "type"})

    def listed(self) -> dict[str, list[str]]:
        """The tuners of the installed peft, and the options of the chosen one."""
        return {"types": types_known(), f"options of {self.type}": sorted(_fields(self.type))}

    def __post_init__(self) -> None:
        library()
        object.__setattr__(self, "settings", converted(self.type, self.settings))

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        device = model.device
        model.to("cpu")  # where a seed gives the same numbers on every machine
        stock = {id(p): p.detach().clone() for p in model.backbone.parameters()}
        new = self.put(model.backbone, seed)
        kept = {id(p): p for p in model.backbone.parameters() if id(p) in stock}
        if len(kept) < len(stock) or not all(torch.equal(p, stock[key]) for key, p in kept.items()):
            raise UserError(
                f"a tuner must leave the encoder's own weights as they are, got peft's {self.type}, which changes them "
                "with these options; pass others, or --method full"
            )
        learned = {name: p for name, p in new.items() if p.requires_grad}
        for parameter in learned.values():
            parameter.data = parameter.data.float()
        drawn = _drawn(model.backbone, new)
        made = attached(model.to(device), [(_stock_name(name), p) for name, p in learned.items()])
        way = self._way(model, list(learned.values()))
        if way in ("copies", "loops"):
            values = _COPYING[way](model, _names(model, list(learned.values())))
            made = attached(model, zip(map(_stock_name, learned), values, strict=False))
        return PeftAdapted(model, made.named, gradients="single" if way == "single" else "hooks", drawn=drawn)

    def _way(self, model: AdaptableModel, learned: Sequence[nn.Parameter]) -> Way:
        """The gradient mode. Where the tuner does not run in bfloat16, its layers are put into float32."""
        ids = self.settings.get("token_indices", ())
        try:
            try:
                return find_gradient_mode(model, _names(model, learned), _COPYING, ids)
            except RuntimeError:
                if all(p.dtype == torch.float32 for p in model.parameters()):
                    raise
                widen(model.backbone, tuner_layer())
                return find_gradient_mode(model, _names(model, learned), _COPYING, ids)
        except UnsupportedModel as error:
            said = str(error)
        except Exception as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
        narrow = any(p.dtype != torch.float32 for p in model.parameters())
        raise UserError(
            f"a tuner must be trainable one example at a time, got peft's {self.type}: {said}; "
            f"pass another --option type{', or --precision fp32' if narrow else ''}"
        )

    def put(self, backbone: Any, seed: int) -> dict[str, nn.Parameter]:
        """Insert the tuner's layers into `backbone`. Returns its new parameters by name. Raises UserError."""
        before = {id(p) for p in backbone.requires_grad_(False).parameters()}
        try:
            self._put(backbone, seed, self.settings)
        except UserError as error:
            if "target_modules" in self.settings or "specify `target_modules`" not in str(error):
                raise
            self._put(backbone, seed, {**self.settings, "target_modules": default_targets(self.type, backbone)})
        return {name: p for name, p in backbone.named_parameters() if id(p) not in before}

    def _put(self, backbone: Any, seed: int, settings: Mapping[str, Any]) -> None:
        config = config_of(self.type, settings)
        _, tuner = classes(self.type)
        if isinstance(settings.get("target_modules"), list):
            settings = {**settings, "target_modules": named_inside(backbone, settings["target_modules"])}
            config = config_of(self.type, settings)
        with one_line(self.type), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner(backbone, config, ADAPTER)
        backbone.peft_config = {ADAPTER: config}

    def merge(self, model: AdaptableModel) -> nn.Module:
        """A copy of the stock backbone with the tuner's layers merged by peft: the same outputs."""
        return merged(model, self.type)

    def trainable(self, config: Any, labels: int) -> int:
        try:
            with torch.device("meta"):
                new = self.put(skeleton(config), 0)
        except UserError:  # some tuners read the weights they change, which the meta device lacks
            new = self.put(skeleton(config, "cpu"), 0)
        learned = sum(p.numel() for p in new.values() if p.requires_grad)
        return learned + labels * (int(config.hidden_size) + 1)


def tuner_layer() -> type[Any]:
    """The base class of all tuner layers of peft."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: type[Any] = BaseTunerLayer
    return found


@torch.no_grad()
def merged(model: AdaptableModel, kind: str) -> nn.Module:
    """A copy of the stock backbone with every tuner layer merged. Raises CannotMerge where peft cannot."""
    if model.before is not None:
        model.before(torch.empty(1, 0, device=model.device))
    adapted, backbone = model.stock(), unwrapped(model.stock())
    like = next(p for p in backbone.parameters())
    for path, layer in list(backbone.named_modules()):
        if isinstance(layer, tuner_layer()):
            try:
                layer.merge(safe_merge=True)
            except Exception as error:
                said = str(error).strip().splitlines()[0] if str(error).strip() else "it has no merge"
                raise CannotMerge(f"peft's {kind} cannot be merged: {said}") from None
            replace(backbone, path, layer.get_base_layer().to(like.dtype))
    for module in backbone.modules():
        if "peft_config" in vars(module):
            del module.peft_config
    backbone = model.completed(backbone)
    ids = torch.arange(4, 10, device=model.device).unsqueeze(0)
    was, now = (m(input_ids=ids, return_dict=False)[0].float() for m in (adapted, backbone))
    close = 1e-3 if like.dtype == torch.float32 else 0.1
    if not float((was - now).norm()) <= close * float(was.norm()):
        raise CannotMerge(f"peft's {kind} merges into a model with other outputs")
    return backbone


def _copies(model: AdaptableModel, names: Sequence[str]) -> list[nn.Parameter]:
    return with_copies(model, names, tuner_layer()) + list(model.head_parameters().values())


def _loops(model: AdaptableModel, names: Sequence[str]) -> list[nn.Parameter]:
    return with_copies(model, names, tuner_layer(), looped=True) + list(model.head_parameters().values())


_COPYING: dict[Way, Copying] = {"copies": _copies, "loops": _loops}


def _names(model: AdaptableModel, parameters: Sequence[nn.Parameter]) -> list[str]:
    found = {id(p): name for name, p in model.backbone.named_parameters()}
    return [found[id(p)] for p in parameters]


def _stock_name(name: str) -> str:
    """A name in the backbone without wrappers of the last block and the tuner's layers."""
    return bare(plain(name))


def _drawn(backbone: nn.Module, new: Mapping[str, nn.Parameter]) -> tuple[str, ...]:
    """Names of the fixed tensors of the tuner's layers, each tensor once."""
    names = [name for name, p in new.items() if not p.requires_grad]
    held = dict(backbone.named_buffers())  # a tensor that several layers share is in it once
    for path, layer in backbone.named_modules():
        if isinstance(layer, tuner_layer()):
            inside = [f"{path}.{name}" for name, _ in layer.named_buffers() if not name.startswith("base_layer.")]
            names += [name for name in inside if name in held]
    return tuple(sorted({_stock_name(name) for name in names}))
