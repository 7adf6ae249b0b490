"""An exported folder gives the run's own logits, with transformers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from dpft import Machine, load
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.exports import custom_code, export, stock_heads, tokenizer_files, verify
from dpft.exports.source import ExportSource
from dpft.methods.compacter import KroneckerBottleneck, Rules
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate

Finished = Callable[..., Path]
FP32 = Machine(device="cpu", precision="fp32")
TEXTS = ["the film is good", "the cast is awful and the dog runs", "", "it is cold " * 20]
# No empty partner: transformers takes one for none where it is not in a batch.
PAIRS = ["it is great", "a cat", "no", "a b c d " * 8]
STOCK = {"slash": {"dim": 12}, "lora": {"rank": 2}, "bitfit": {}, "linear": {}, "full": {}, "rgp": {}}
OWN = {
    "warp": {"tokens": 3},
    "jr_warp": {"dim": 8, "tokens": 2},
    "adapter": {"bottleneck": 4},
    "compacter": {"bottleneck": 8, "terms": 4},
}  # fmt: skip
ALONE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dpft":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
torch.set_num_threads(1)
found = {}
for folder, texts, pairs in json.load(sys.stdin):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    batch = tokenizer(texts, pairs, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits.tolist()
    pipe = pipeline("text-classification", model=folder, trust_remote_code=True)
    asked = [{"text": a, "text_pair": b} for a, b in zip(texts, pairs)] if pairs else texts
    found[folder] = {"logits": logits, "pipeline": [pipe(one, truncation=True) for one in asked]}
assert not any(name.partition(".")[0] == "dpft" for name in sys.modules)
print(json.dumps(found))
"""


def logits(path: Path, pairs: list[str] | None = None) -> np.ndarray[Any, Any]:
    return load(path, machine=FP32).logits(Examples(TEXTS, pairs, np.zeros(len(TEXTS), np.int64)))


def stranger(jobs: list[tuple[Path, list[str] | None]], home: Path) -> dict[str, Any]:
    """What a process without dpft makes of exported folders: logits and pipeline answers."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE],
        input=json.dumps([(str(folder), TEXTS, pairs) for folder, pairs in jobs]),
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def single(answer: Any) -> dict[str, Any]:
    return answer[0] if isinstance(answer, list) else answer


@pytest.mark.parametrize("method", STOCK)
def test_a_stock_pipeline_gives_the_runs_labels_and_logits(
    method: str, tiny_model: Path, finished: Finished, tmp_path: Path
) -> None:
    run = finished(tiny_model, method=method, options=STOCK[method], by=0.05 if method in ("full", "rgp") else 0.3)
    found = export(run, tmp_path / "out")
    assert not (found.path / "modeling_dpft.py").exists()
    assert "auto_map" not in json.loads((found.path / "config.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(found.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(found.path)
    with torch.no_grad():
        made = model(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")).logits.numpy()
    wanted = logits(run)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3  # the texts tell apart
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=2e-5 * np.abs(wanted).max())
    pipe = pipeline("text-classification", model=str(found.path))
    for text, mine in zip(TEXTS, load(run, machine=FP32).predict(TEXTS), strict=True):
        answer = single(pipe(text, truncation=True))
        assert answer["label"] == mine.label
        assert answer["score"] == pytest.approx(mine.probability, abs=1e-4)


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_pairs_and_scores_are_exported_too(task: str, tiny_model: Path, finished: Finished, tmp_path: Path) -> None:
    run = finished(tiny_model, task, options={"dim": 12})
    found = export(run, tmp_path / "out")
    config = json.loads((found.path / "config.json").read_text())
    assert config["problem_type"] == ("regression" if task == "stsb" else "single_label_classification")
    assert len(config["id2label"]) == (1 if task == "stsb" else 2)
    pipe = pipeline("text-classification", model=str(found.path))
    for text, pair, mine in zip(TEXTS, PAIRS, load(run, machine=FP32).predict(TEXTS, PAIRS), strict=True):
        answer = single(pipe({"text": text, "text_pair": pair}, truncation=True))
        expected = mine.label if task == "stsb" else mine.probability
        assert answer["score"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_own_code_serves_strangers_every_reading_and_method(
    tiny_bert: Path, tiny_roberta: Path, glue_folder: Any, finished: Finished, tmp_path: Path
) -> None:
    # One process for all, for starting one costs seconds. Catches: a prompt that counts in the mean, a block's
    # addition dropped, Kronecker factors transposed, a mask read one place off, weights that are drawn anew.
    cases = [
        (m, o, r, "sst2", tiny_bert) for (m, o), r in zip(OWN.items(), ("mask", "mean", "cls", "mask"), strict=True)
    ]
    cases += [
        (m, o, r, "rte", tiny_roberta) for (m, o), r in zip(OWN.items(), ("mean", "mask", "mask", "cls"), strict=True)
    ]
    cases += [
        ("slash", {"dim": 12}, r, t, m)
        for m in (tiny_bert, tiny_roberta)
        for r, t in (("mask", "sst2"), ("mean", "rte"))
    ]
    cases += [("lora", {"rank": 2}, "mask", "rte", tiny_bert), ("slash", {"dim": 12}, "mask", "stsb", tiny_bert)]
    folders = {task: glue_folder(task, train=60, validation=20) for task in ("sst2", "rte", "stsb")}
    jobs, wanted = [], {}
    for number, (method, options, representation, task, model) in enumerate(cases):
        run = finished(model, task, data=folders[task], method=method, options=options, representation=representation)
        pairs = None if task == "sst2" else PAIRS
        found = export(run, tmp_path / f"out-{number}", with_code=True)
        assert (found.path / "modeling_dpft.py").is_file()
        jobs.append((found.path, pairs))
        wanted[str(found.path)] = (
            method,
            representation,
            logits(run, pairs),
            load(run, machine=FP32).predict(TEXTS, pairs),
        )
    for folder, answers in stranger(jobs, tmp_path / "hub").items():
        method, representation, mine, predicted = wanted[folder]
        assert np.abs(mine[0] - mine[1]).max() > 1e-3
        np.testing.assert_allclose(
            answers["logits"], mine, rtol=1e-5, atol=2e-5 * np.abs(mine).max(), err_msg=f"{method} {representation}"
        )
        for answer, one in zip(answers["pipeline"], predicted, strict=True):
            expected = one.label if one.probability is None else one.probability
            assert single(answer)["score"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("paired", [False, True])
def test_the_masking_tokenizer_makes_the_token_ids_of_the_run(
    tiny_model: Path, finished: Finished, tmp_path: Path, paired: bool
) -> None:
    run = finished(tiny_model, "rte" if paired else "sst2", options={"dim": 12}, representation="mask")
    folder = export(run, tmp_path / "out", with_code=True).path
    trained = load(run, machine=FP32)
    rows = Examples(TEXTS, PAIRS if paired else None, np.zeros(len(TEXTS), np.int64))
    encoded = encode(rows, trained.tokenizer, "mask", 24)
    made = AutoTokenizer.from_pretrained(folder)(TEXTS, PAIRS if paired else None, truncation=True)
    for row, ids in enumerate(made["input_ids"]):
        batch = collate(encoded, np.array([row]))
        assert ids == batch.ids[0].tolist()
        assert ids[int(batch.read[0])] == trained.tokenizer.mask_token_id
        if "token_type_ids" in made:
            assert made["token_type_ids"][row] == batch.types[0].tolist()


@pytest.mark.parametrize(
    ("method", "representation", "remedies"),
    [
        ("slash", "mean", ("--with-code", "onnx", "peft")),
        ("lora", "mask", ("--with-code", "onnx", "peft")),
        ("warp", "cls", ("--with-code", "onnx")),
        ("adapter", "cls", ("--with-code", "onnx")),
    ],
)
def test_what_stock_classes_cannot_hold_is_one_line_that_names_what_works(
    tiny_bert: Path, finished: Finished, tmp_path: Path, method: str, representation: str, remedies: tuple[str, ...]
) -> None:
    options = {"slash": {"dim": 12}, **OWN}.get(method, {})
    run = finished(tiny_bert, method=method, options=options, representation=representation)
    with pytest.raises(UserError) as caught:
        export(run, tmp_path / "deep" / "out")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in remedies)
    assert ("peft" in str(caught.value)) == ("peft" in remedies)
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name or "deep" in p.name) == []


@pytest.mark.parametrize("bug", ["spread", "center", "bias", "scale"])
def test_a_wrong_head_is_refused_and_leaves_nothing(
    tiny_bert: Path, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    # Injected bugs: a head that forgets the standardisation, its bias, or is a thousandth off.
    run = finished(tiny_bert, options={"dim": 12})
    honest = stock_heads.write_head

    def wrong(model: Any, head: nn.Linear) -> None:
        trained = load(run, machine=FP32).adapted.model
        with torch.no_grad():
            other = nn.Linear(head.in_features, head.out_features)
            other.load_state_dict(head.state_dict())
            if bug == "spread":
                other.weight.copy_(trained.head.weight)
            elif bug == "center":
                other.bias.copy_(trained.head.bias)
            elif bug == "bias":
                other.bias.zero_()
            else:
                other.weight.mul_(1.001)
        honest(model, other)

    monkeypatch.setattr(stock_heads, "write_head", wrong)
    with pytest.raises(UserError, match="must give the run's logits"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_tokenizer_that_forgets_the_mask_is_refused(
    tiny_bert: Path, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tiny_bert, options={"dim": 12}, representation="mask")
    monkeypatch.setattr(tokenizer_files, "masking", lambda own: own.backend_tokenizer.post_processor)
    with pytest.raises(UserError, match="must give the run's logits"):
        export(run, tmp_path / "out", with_code=True)


def test_without_trust_an_export_with_code_is_no_silent_random_model(
    tiny_bert: Path, finished: Finished, tmp_path: Path
) -> None:
    # As a stock model_type with an auto_map it would load as a stock classifier with a random head.
    run = finished(tiny_bert, options={"dim": 12}, representation="mean")
    found = export(run, tmp_path / "out", with_code=True)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForSequenceClassification.from_pretrained(found.path, trust_remote_code=False)


def test_code_is_added_only_where_it_is_needed(tiny_bert: Path, finished: Finished, tmp_path: Path) -> None:
    found = export(finished(tiny_bert, options={"dim": 12}), tmp_path / "out", with_code=True)
    assert "modeling_dpft.py" not in found.files
    assert not any("trust" in line for line in found.usage)


def test_the_printed_usage_runs_as_it_stands(tiny_bert: Path, finished: Finished, tmp_path: Path) -> None:
    found = export(finished(tiny_bert, options={"dim": 12}), tmp_path / "out")
    space: dict[str, Any] = {}
    exec("\n".join([*found.usage[:-1], f"answer = {found.usage[-1]}"]), space)
    assert single(space["answer"])["label"] in ("negative", "positive")


def test_a_kronecker_adapter_and_its_plain_form_agree() -> None:
    torch.manual_seed(0)
    rules = Rules(torch.randn(4, 4, 4))
    rules(torch.empty(1, 0))
    adapter = KroneckerBottleneck(16, 8, 2, rules, torch.Generator().manual_seed(0))
    hidden = torch.randn(3, 5, 16)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        plain = custom_code.plain_bottleneck(adapter)
        torch.testing.assert_close(plain(hidden), hidden + adapter(hidden), rtol=1e-5, atol=1e-5)


def test_the_texts_of_the_check_cover_empty_and_long_ones() -> None:
    for paired in (False, True):
        rows = verify.texts(paired)
        assert "" in rows.texts
        assert max(len(text.split()) for text in rows.texts) > 300
        assert (rows.pairs is not None) == paired


def test_a_source_is_the_run(tiny_bert: Path, finished: Finished) -> None:
    source = ExportSource.open(finished(tiny_bert, options={"dim": 12}))
    assert source.labels == ("negative", "positive")
    assert verify.distance(np.ones((2, 2)), np.ones((2, 2)), source) == 0
