"""Exports of models that write are the run: its logits and its texts, by stock classes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from dpft import UserError
from dpft.exports import adapters
from dpft.exports.source import ExportSource
from dpft.exports.text_formats import _tokenizer, _verify, hf
from dpft.exports.text_formats import peft as peft_format
from dpft.inference.writing import Sampling
from tests.exports.text_runs import CHAT, END, PADDING, START, saved, source

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPTS = ["", "the film", "a dog and a cat run"]
IDS = torch.tensor([[START, 70, 90, 66, 300, 12, 77, END]])
MERGED: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "targets": "query,output"},
    "slash": {"dim": 8, "init": "normal"},
    "bitfit": {},
    "full": {},
    "peft": {"type": "lora", "r": 2},
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {}),
    "opt": ("opt", {}),
}
NO_PLACE = {"qwen3", "gemma3"}  # for a bias after the feed-forward layer
ALONE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dpft":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import torch
from transformers import pipeline
torch.set_num_threads(1)
write = pipeline("text-generation", model=sys.argv[1])
texts = [write(one, max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
         for one in json.loads(sys.argv[2])]
assert not any(name.partition(".")[0] == "dpft" for name in sys.modules)
print(json.dumps([type(write.model).__module__, texts]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("decoders")
    return {name: saved(family, home / name, **changes) for name, (family, changes) in FAMILIES.items()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@torch.no_grad()
def run_logits(of: ExportSource) -> Tensor:
    """The stock class with the method's modules inside, as training left it."""
    model: Any = of.trained.adapted.model
    if model.before is not None:
        model.before(torch.empty(1, 0))
    found: Tensor = model.causal(input_ids=IDS, use_cache=False).logits
    return found


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found


def texts(model: Any, folder: Path, **ending: Any) -> list[str]:
    """Six tokens after each prompt, in one batch, as the tokenizer's files say."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=6, do_sample=False, **ending)[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def run_texts(of: ExportSource, prompts: list[str] = PROMPTS) -> list[str]:
    return [one.text for one in of.trained.write(prompts, Sampling(temperature=0, max_new_tokens=6))]


@pytest.mark.parametrize("method", MERGED)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_stock_class_gives_the_runs_logits_and_texts(
    name: str, method: str, models: dict[str, Path], out: Path
) -> None:
    if method == "peft":
        pytest.importorskip("peft")
    of = source(models[name], method, MERGED[method])
    if method == "slash" and name in NO_PLACE:
        with pytest.raises(UserError, match="no place for a bias in these dense layers; pass --format peft"):
            hf.write(of, out)
        return
    hf.write(of, out)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    plain = AutoModelForCausalLM.from_pretrained(models[name]).eval()
    assert type(model) is type(plain)
    wanted = run_logits(of)
    assert float((logits(plain) - wanted).abs().max()) > 1e-2 * float(wanted.abs().max())  # the method does something
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
    assert texts(model, out) == run_texts(of)
    tied = FAMILIES[name][1].get("tie_word_embeddings", plain.config.tie_word_embeddings)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    with safe_open(out / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118


ADAPTERS = [
    ("lora", {"rank": 3, "alpha": 7, "targets": "query,value,attention"}),
    ("slash", {"dim": 8, "init": "normal"}),
    ("peft", {"type": "lora", "r": 2, "target_modules": "all-linear"}),
    ("peft", {"type": "vera", "r": 4}),
]
# BEFT, which holds SLaSh's shift, is for nn.Linear alone: GPT-2's is among the refusals.
CASES = [
    (name, *adapter)
    for name in ("gpt2", "llama, tied", "qwen3", "opt")
    for adapter in ADAPTERS
    if (name, adapter[0]) != ("gpt2", "slash")
]


@pytest.mark.parametrize(("name", "method", "options"), CASES)
def test_unmodified_peft_gives_the_runs_logits_and_texts(
    name: str, method: str, options: dict[str, Any], models: dict[str, Path], out: Path
) -> None:
    peft = pytest.importorskip("peft")
    of = source(models[name], method, options)
    lines = peft_format.write(of, out)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] is None  # a local folder is not named
    base = AutoModelForCausalLM.from_pretrained(models[name], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, out).eval()
    assert type(model).__name__ == "PeftModelForCausalLM"
    wanted = run_logits(of)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
    assert texts(model, out, eos_token_id=END, pad_token_id=PADDING) == run_texts(of)
    code = "\n".join([*lines[:-1], f"answer = {lines[-1]}"]).replace("THE_MODEL_IT_WAS_TRAINED_ON", str(models[name]))
    space: dict[str, Any] = {}
    exec(code.replace("DIR", str(out)).replace("max_new_tokens=64", "max_new_tokens=6"), space)
    assert space["answer"] == run_texts(of, [""])[0]


def test_nothing_of_dpft_is_needed(models: dict[str, Path], out: Path, tmp_path: Path) -> None:
    of = source(models["gpt2"], "lora", {"rank": 2})
    hf.write(of, out)
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert not list(out.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(out), json.dumps(PROMPTS)], capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["transformers.models.gpt2.modeling_gpt2", run_texts(of)]


def test_a_chats_template_is_kept_and_its_tokens_are_the_runs(out: Path, tmp_path: Path) -> None:
    of = source(saved("llama", tmp_path / "chat", chat=True), "lora", {"rank": 2}, messages="chat")
    (line,) = [line for line in hf.write(of, out) if line.startswith("write(")]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == CHAT
    turns = [{"role": "user", "content": "the film"}]
    write = pipeline("text-generation", model=str(out))
    found = write(turns, max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert found == run_texts(of, ["the film"])[0]
    assert "'role': 'user'" in line


def test_the_tokenizer_makes_prompts_as_training_did_and_pads_on_the_left(models: dict[str, Path], out: Path) -> None:
    of = source(models["llama"], "lora", {"rank": 2}, labels=("calm", "cross"))
    line = hf.write(of, out)[-1]
    assert line == r"write('Label: calm\n', max_new_tokens=64, do_sample=False)"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("")["input_ids"] == [START]
    assert tokenizer("a dog")["input_ids"] == [
        START,
        *of.trained.tokenizer("a dog", add_special_tokens=False)["input_ids"],
    ]
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length) == ("left", "left", 128)
    assert tokenizer.pad_token_id == END  # it had none
    assert tokenizer.decode([START, 70, END], skip_special_tokens=True) == of.trained.tokenizer.decode([70])


def test_texts_end_and_are_drawn_as_the_run_ends_them(models: dict[str, Path], out: Path) -> None:
    """Catches the base model's own settings: other end tokens, and a temperature that saves as an error."""
    hf.write(source(models["qwen3"], "lora", {"rank": 2}), out)
    found = json.loads((out / "generation_config.json").read_text())
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (START, END, END)
    assert found.get("temperature") is None


def test_no_local_path_leaves(models: dict[str, Path], out: Path) -> None:
    hf.write(source(models["gpt2"], "lora", {"rank": 2}), out)
    peft_format.write(source(models["gpt2"], "lora", {"rank": 2}), out)
    for file in out.rglob("*"):
        assert str(models["gpt2"].parent).encode() not in file.read_bytes(), file.name
        assert b"notes.jsonl" not in file.read_bytes()


# Injected bugs: each is refused by the verification.


def _unmerged(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """The base model, as if nothing had been trained."""
    from dpft.models.loading.weights import read

    monkeypatch.setattr(ExportSource, "merged", lambda self: read(self.spec.model, "eager"))


def _one_tensor(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """One norm of one block is off by a thousandth."""
    honest = hf.stock

    def wrong(source: ExportSource) -> Any:
        model = honest(source)
        with torch.no_grad():
            model.model.layers[1].input_layernorm.weight.mul_(1.001)
        return model

    monkeypatch.setattr(hf, "stock", wrong)


def _untied(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """The output layer is saved as a random one of its own."""
    honest = hf.stock

    def wrong(source: ExportSource) -> Any:
        model = honest(source)
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
        return model

    monkeypatch.setattr(hf, "stock", wrong)


def _no_start(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """The tokenizer's own template, which ends each prompt as if the text were over."""
    monkeypatch.setattr(_tokenizer, "_starting", lambda own: own.backend_tokenizer.post_processor)


def _padded_on_the_right(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """New tokens come after padding."""
    honest = _tokenizer.generic
    monkeypatch.setattr(
        _tokenizer, "generic", lambda *given, **more: honest(*given, **{**more, "padding_side": "right"})
    )


def _endless(monkeypatch: pytest.MonkeyPatch, of: ExportSource) -> None:
    """The generation config does not know where a text ends: the run's greedy text ends at once here."""
    honest = hf.generation_config
    first = int(_verify.run_logits(of, [START])[-1].argmax())
    of.trained.tokenizer.eos_token = of.trained.tokenizer.convert_ids_to_tokens(first)

    def wrong(model: Any, tokenizer: Any) -> Any:
        made = honest(model, tokenizer)
        made.eos_token_id = END if first != END else START
        return made

    monkeypatch.setattr(hf, "generation_config", wrong)


BUGS = {
    _unmerged: "must give the run's logits",
    _one_tensor: "must give the run's logits",
    _untied: "must give the run's logits",
    _no_start: "must give the token ids of training",
    _padded_on_the_right: "must write what the run writes",
    _endless: "must write what the run writes",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__.strip("_"))
def test_a_wrong_export_is_refused(
    bug: Any, models: dict[str, Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = source(models["llama, tied"], "lora", {"rank": 2})
    bug(monkeypatch, of)
    with pytest.raises(UserError, match=BUGS[bug]) as caught:
        hf.write(of, out)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_lost_a_tensor_is_refused(
    models: dict[str, Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    honest = adapters._copy
    monkeypatch.setattr(adapters, "_copy", lambda to, value: None if value.shape[1] == 2 else honest(to, value))
    with pytest.raises(UserError, match="must give the run's logits"):
        peft_format.write(source(models["llama"], "lora", {"rank": 2}), out)


REFUSED = [
    ("llama", "adapter", {"bottleneck": 4}, hf, "adapter: .*; use `dpft generate`, or train with --method lora"),
    ("llama", "jr_warp", {"dim": 8, "tokens": 2}, hf, "jr_warp: a prompt .*; use `dpft generate`, or train"),
    ("llama", "warp", {"tokens": 2}, peft_format, "got warp; use `dpft generate`, or train with --method lora"),
    ("llama", "bitfit", {}, peft_format, "got bitfit; pass --format hf"),
    ("gpt2", "slash", {"dim": 8}, peft_format, "an adapter must fit the stock layers, .*; pass --format hf"),
]


@pytest.mark.parametrize(("name", "method", "options", "format", "said"), REFUSED)
def test_what_a_format_cannot_hold_is_one_line_that_names_what_works(
    name: str, method: str, options: dict[str, Any], format: Any, said: str, models: dict[str, Path], out: Path
) -> None:
    if format is peft_format:
        pytest.importorskip("peft")
    with pytest.raises(UserError, match=said) as caught:
        format.write(source(models[name], method, options), out)
    assert "\n" not in str(caught.value)


def test_an_adapter_on_the_built_in_model_is_refused(models: dict[str, Path], out: Path) -> None:
    of = source(models["llama"], "lora", {"rank": 2})
    object.__setattr__(of.spec, "model", "builtin-lm")
    with pytest.raises(UserError, match=r"got builtin-lm, .*; pass --format hf"):
        peft_format.write(of, out)
    assert not list(out.iterdir())
