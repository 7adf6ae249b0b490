"""JR-WARP: prompts in every block, all made from one vector (Gupta et al. 2023, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replace_options
from typing import Any, ClassVar, get_args

from torch import Tensor, nn

from dpft.methods.slash import Init, check_dim, fitting, precision, start
from dpft.models.adapted import AdaptedModel, CannotMerge, Traits, attached, check_choice, check_count, check_size
from dpft.models.architectures import architecture, block_modules, replace
from dpft.models.architectures.sizes import skeleton
from dpft.models.base import AdaptableModel
from dpft.models.prompt_slots import PromptedEmbedding, check_prompt_slots, filled, is_decoding
from dpft.models.random_projections import Projection
from dpft.models.shared_vector import PerExample


class Addition:
    """A block's pre-hook that adds `shift` (B or 1, n, D) to the prompt slots after the first token."""

    def __init__(self) -> None:
        self.shift: Tensor | None = None

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self.shift is not None
        hidden = args[0]
        if is_decoding(hidden, self.shift):
            return args, kwargs
        places = slice(1, 1 + self.shift.shape[1])
        return (filled(hidden, hidden[:, places] + self.shift.to(hidden.dtype)), *args[1:]), kwargs


class DeepPrompt(nn.Module):
    """W_l z for all blocks at once, added to the prompts in each block's input: (B, n, d) -> L times (B, n, D)."""

    def __init__(self, z: Tensor, projection: Projection, words: PromptedEmbedding, additions: list[Addition]) -> None:
        super().__init__()
        self.z = PerExample(z)
        self.projection = projection
        self._words, self._additions = (words,), additions
        table = words.words.weight
        self.blank: Tensor
        # No vector at the input: there the prompt is its position, and W_0 z.
        self.register_buffer("blank", table.new_zeros(1, z.shape[0], table.shape[1]), persistent=False)

    def forward(self, rows: Tensor) -> None:
        self._words[0].prompt = self.blank
        shifts = self.projection(self.z(rows)).chunk(len(self._additions), dim=-1)
        for addition, shift in zip(self._additions, shifts, strict=True):
            addition.shift = shift


@dataclass(frozen=True)
class JrWarp:
    """Jointly reparametrised WARP: every block's input gains W_l z at the prompts (Gupta et al. 2023, appendix A).

    tokens: number n of prompts, each with a z of its own. dim: length d of each z, at most the sum of the blocks'
    widths. init: distribution of z and W_l, as for slash. scale: factor on z's initial value. regenerate: regenerate
    W_l when needed, as for slash. The prompts stand right after the first token and are never read.
    Trainable parameters: n d + C(D + 1).
    """

    dim: int = 1024
    tokens: int = 1
    init: Init = "normal"
    scale: float = 1.0
    regenerate: bool = False
    traits: ClassVar[Traits] = Traits(parameter_sharing=True, efficient_inference=False, multi_layer=True)
    non_private_rate: ClassVar[float] = 0.02

    def __post_init__(self) -> None:
        check_count("dim", self.dim, example=1024)
        check_count("tokens", self.tokens, example=1)
        check_choice("init", self.init, get_args(Init))
        check_size("scale", self.scale, "1")

    def attach(self, model: AdaptableModel, seed: int) -> AdaptedModel:
        check_prompt_slots(model.backbone, self.tokens)
        path = architecture(model.backbone.config).words
        words = model.backbone.get_submodule(path)
        assert isinstance(words, nn.Embedding)
        widths = _widths(model.backbone)
        z, projection = start(self, seed, widths, precision(model), self.tokens)
        site, additions = PromptedEmbedding(words), []
        replace(model.backbone, path, site)
        for block in block_modules(model.backbone):
            additions.append(Addition())
            block.register_forward_pre_hook(additions[-1], with_kwargs=True)
        model.prompts = self.tokens
        prompt = DeepPrompt(z, projection, site, additions)
        model.before = prompt
        return attached(model, [("z", prompt.z.value)])

    def merge(self, model: AdaptableModel) -> nn.Module:
        raise CannotMerge("a prompt needs input positions that the stock model does not have")

    def fitted(self, config: Any) -> JrWarp:
        """The same method with each z cut to the largest length this model allows."""
        return replace_options(self, dim=fitting(self, _widths(skeleton(config))))

    def trainable(self, config: Any, labels: int) -> int:
        encoder = skeleton(config)
        check_prompt_slots(encoder, self.tokens)
        check_dim(self, _widths(encoder))
        return self.tokens * self.dim + labels * (int(config.hidden_size) + 1)


def _widths(backbone: Any) -> list[int]:
    """The width of each block's input."""
    return [int(backbone.config.hidden_size)] * len(block_modules(backbone))


METHOD = JrWarp
