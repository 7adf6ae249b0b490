"""Format onnx: the whole model as one ONNX graph, from token ids and attention mask to logits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.exports import custom_code, tokenizer_files, verify
from dpft.exports.source import ExportSource
from dpft.methods import CannotMerge
from dpft.models.loading import quiet
from dpft.spec import Representation

LIBRARY = "onnx"

_FILE = "model.onnx"


class _Logits(nn.Module):
    """The model with tensors in and one tensor out. `len` of a tensor would fix the graph's batch size."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self._names = model, tuple(names)

    def forward(self, *arrays: Tensor) -> Tensor:
        inputs = dict(zip(self._names, arrays, strict=True))
        model, ids = self.model, inputs["input_ids"]
        places = int(model.config.prompts)
        roomy = {name: torch.cat([x[:, :1]] * (places + 1) + [x[:, 1:]], dim=1) for name, x in inputs.items()}
        hidden = model.encoder(**roomy).last_hidden_state
        hidden = torch.cat([hidden[:, :1], hidden[:, 1 + places :]], dim=1)
        read = _READ[model.config.representation](hidden, ids, inputs["attention_mask"], model.config)
        logits: Tensor = model.head(read)
        return logits


def _mean(hidden: Tensor, _ids: Tensor, allowed: Tensor, _config: Any) -> Tensor:
    """(B, T, D) -> (B, D): the mean over all tokens but padding."""
    weight = allowed.to(hidden.dtype).unsqueeze(-1)
    mean: Tensor = (hidden * weight).sum(1) / weight.sum(1)
    return mean


def _masked(hidden: Tensor, ids: Tensor, _allowed: Tensor, config: Any) -> Tensor:
    """(B, T, D) -> (B, D): at the mask token that the template inserts."""
    masked = ids == config.mask
    if config.paired:  # the first mask that a separator follows
        after = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], dim=1)
        masked = masked & (after == config.separator)
        one = masked & (masked.long().cumsum(1) == 1)
    else:  # the last mask
        count = masked.long().cumsum(1)
        one = masked & (count == count[:, -1:])
    found: Tensor = (hidden * one.to(hidden.dtype).unsqueeze(-1)).sum(1)
    return found


_READ: dict[Representation, Callable[..., Tensor]] = {
    "token": lambda hidden, *_: hidden,
    "cls": lambda hidden, *_: hidden[:, 0],
    "mean": _mean,
    "mask": _masked,
}


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write model.onnx and the tokenizer. Returns usage lines.

    Inputs: input_ids, attention_mask, and token_type_ids where the encoder takes them, all (batch, tokens) int64.
    Output: logits (batch, outputs). With `mask` the graph finds the mask token itself. The graph is run by onnxruntime
    on texts of several lengths, alone and padded, and verified against the run's logits.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"format onnx needs the extra `onnx`, got an installation without {error.name}; pip install 'dpft[onnx]'"
        ) from None
    tokenizer = tokenizer_files.tokenizer(source)
    with _silent():
        _trace(source, tokenizer, folder)
        tokenizer.save_pretrained(folder)
    _check(source, tokenizer, folder)
    return _usage(source)


def _trace(source: ExportSource, tokenizer: Any, folder: Path) -> None:
    """Trace the model of custom_code into a graph of any batch size and length."""
    try:
        model = custom_code.model(source)
    except CannotMerge as reason:
        raise UserError(
            f"format onnx needs a method with a plain form, got {source.spec.method}: {reason}; export another run"
        ) from None
    model.encoder.set_attn_implementation("eager")
    names = list(tokenizer.model_input_names)
    two = tokenizer(["a b c", "a"], ["b", "c d"] if source.trained.paired else None, padding=True, return_tensors="pt")
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=2, max=source.spec.max_length)
    with torch.no_grad():
        program = torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(two[name] for name in names),
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
            dynamo=True,
            verbose=False,
        )
    _save(program, folder / _FILE)


def _save(program: Any, file: Path) -> None:
    """Save the graph without the exporter's source locations, which contain local paths."""
    import onnx

    found = program.model_proto
    del found.metadata_props[:]
    for graph in (found.graph, *found.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        values = [*graph.value_info, *getattr(graph, "initializer", ()), *_ends(graph)]
        for part in (*graph.node, *values):
            part.doc_string = ""
            del part.metadata_props[:]
    onnx.save_model(found, file)


def _ends(graph: Any) -> list[Any]:
    """The inputs and outputs of a graph; of a function, their names."""
    return [end for end in (*graph.input, *graph.output) if not isinstance(end, str)]


def _check(source: ExportSource, tokenizer: Any, folder: Path) -> None:
    """Raise UserError where the graph's logits are not the run's, for texts one by one and padded together."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(folder / _FILE), providers=["CPUExecutionProvider"])
    rows = verify.texts(source.trained.paired)
    wanted = verify.logits(source, rows)
    alone = [_run(session, tokenizer, _row(rows, number)) for number in range(len(rows))]
    for found in (_run(session, tokenizer, rows), np.concatenate(alone)):
        difference = verify.distance(wanted, found, source)
        if not difference <= verify.TOLERANCE:
            raise UserError(
                f"a graph must give the run's logits to {verify.TOLERANCE:g} of their size, got {difference:.1e}; "
                "export it with --format hf"
            )


def _row(rows: Examples, number: int) -> Examples:
    one = slice(number, number + 1)
    return Examples(rows.texts[one], rows.pairs and rows.pairs[one], rows.labels[one])


def _run(session: Any, tokenizer: Any, rows: Examples) -> Any:
    inputs = tokenizer(
        list(rows.texts), rows.pairs and list(rows.pairs), padding=True, truncation=True, return_tensors="np"
    )
    found = session.run(None, {name: inputs[name].astype(np.int64) for name in tokenizer.model_input_names})[0]
    return verify.flat(found, inputs["attention_mask"])


def _usage(source: ExportSource) -> list[str]:
    text = '["a text"], ["its partner"]' if source.trained.paired else '["a text", "another"]'
    return [
        "from onnxruntime import InferenceSession",
        "from transformers import AutoTokenizer",
        f'session, tokenizer = InferenceSession("DIR/{_FILE}"), AutoTokenizer.from_pretrained("DIR")',
        f'inputs = tokenizer({text}, padding=True, truncation=True, return_tensors="np")',
        "logits = session.run(None, dict(inputs))[0]",
        *source.reading(),
    ]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the exporter's output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
