"""Runs that label words, through the whole line: train, break off, resume, judge, tag, audit's own rows."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from dpft.cli import main

from dpft import Budget, Machine, Spec, UserError, load, resume, train
from tests.conftest import WORDS
from tests.stopping import StopAt

FP32 = Machine(device="cpu", precision="fp32")
WHO = ("man", "woman", "dog", "cat")


def write_columns(file: Path, count: int, seed: int) -> None:
    """Sentences in which four words are entities, always: a model can learn it."""
    rng = Random(seed)
    sentences = [[rng.choice((*WORDS, *WHO * 6)) for _ in range(rng.randrange(1, 9))] for _ in range(count)]
    lines = ["".join(f"{word} {'B-who' if word in WHO else 'O'}\n" for word in words) for words in sentences]
    file.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def spec(tiny_bert: Path, tmp_path: Path) -> Spec:
    home = tmp_path / "data"
    home.mkdir()
    write_columns(home / "train.conll", 160, 0)
    write_columns(home / "validation.conll", 40, 1)
    return Spec(
        task="ner/files", data=str(home), model=str(tiny_bert), options={"dim": 12}, budget=Budget(8.0, 1e-4),
        batch_size=40, epochs=1, max_length=16, labels=("who",),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["linear", "jr_warp"])
def test_a_private_run_breaks_off_resumes_and_loads(method: str, spec: Spec, tmp_path: Path) -> None:
    spec, stopped = replace(spec, method=method, options={} if method == "linear" else {"dim": 12}), StopAt(2)
    with pytest.raises(KeyboardInterrupt):
        train(spec, runs=tmp_path / "runs", machine=FP32, progress=stopped)
    result = resume(stopped.path, machine=FP32)
    assert result.epsilon is not None
    assert result.epsilon <= 8.0
    assert json.loads((result.path / "spec.json").read_text())["representation"] == "token"
    loaded = load(result.path, machine=FP32)
    figures = loaded.figures()
    assert figures[result.metric] == result.value
    assert {name: figures[name] for name in result.further} == result.further
    assert set(figures) == {f"{name}_{of}" for name in ("entity", "who") for of in ("f1", "precision", "recall")}


@pytest.mark.usefixtures("drawn_alike")
@pytest.mark.parametrize(("method", "options", "rate"), [("slash", {"dim": 12}, 0.1), ("linear", {}, 3.0)])
def test_without_privacy_it_learns_which_words_are_entities(
    method: str, options: dict[str, int], rate: float, spec: Spec, tmp_path: Path
) -> None:
    # Catches labels at other tokens than their words': guessing finds a quarter, for that many words are entities.
    spec = replace(spec, method=method, options=options, budget=None, epochs=40, learning_rate=rate)
    spec = spec if method == "linear" else replace(spec, head_learning_rate=5 * rate)
    result = train(spec, runs=tmp_path / "runs", machine=FP32)
    assert result.value is not None
    assert result.value > 0.4


@pytest.fixture
def finished(spec: Spec, tmp_path: Path) -> Path:
    return train(replace(spec, budget=None), runs=tmp_path / "runs", machine=FP32).path


def test_texts_are_tagged_alike_alone_and_among_others(finished: Path) -> None:
    texts = ["the man runs", "", "a very good story about a dog and so on and so on", "!"]
    loaded = load(finished, machine=FP32)
    together = loaded.tag(texts)
    assert [len(one.words) for one in together] == [3, 0, 13, 1]
    for text, found in zip(texts, together, strict=True):
        (alone,) = loaded.tag([text])
        assert [(w.text, w.label, w.start) for w in alone.words] == [(w.text, w.label, w.start) for w in found.words]
        assert [w.probability for w in alone.words] == pytest.approx([w.probability for w in found.words], abs=1e-5)


def test_a_word_beyond_the_length_is_outside_and_its_entity_is_missed(finished: Path) -> None:
    loaded = load(finished, machine=FP32)
    (found,) = loaded.tag(["dog " * 30])
    assert len(found.words) == 30
    assert {word.label for word in found.words[14:]} == {"O"}


def test_calls_for_the_other_kind_of_answer_are_refused(finished: Path) -> None:
    with pytest.raises(UserError, match="call `tag` instead"):
        load(finished, machine=FP32).predict(["a"])


def test_the_command_line_prints_tags_entities_and_a_table_of_types(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dpft", words[0], str(finished), *words[1:], "--precision", "fp32"])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code
        return str(capfd.readouterr().out)

    lines = call("predict", "--text", "the dog!", "--text", "so").split("\n")
    assert [line.split("\t")[0] for line in lines] == ["the", "dog", "!", "", "so", "", ""]
    assert all(line.split("\t")[1] in ("O", "B-who", "I-who") for line in lines if line)
    found = json.loads(call("predict", "--text", "the dog!", "--json"))
    assert set(found) == {"text", "words", "entities", "private"}
    assert [found["text"][w["start"] : w["end"]] for w in found["words"]] == ["the", "dog", "!"]
    table = call("evaluate").split("\n")
    assert table[0].startswith("entity_f1 ")
    assert [line.split()[0] for line in table[2:4]] == ["entity", "who"]
    assert all(0 <= float(cell) <= 1 for line in table[2:4] for cell in line.split()[1:])


def test_the_ledger_knows_the_sentences_again(spec: Spec, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    for _ in range(2):
        result = train(spec, runs=tmp_path / "runs", ledger=ledger, machine=FP32)
    population = json.loads((result.path / "privacy.json").read_text())["population"]
    assert population["runs"] == 2


def test_units_of_several_sentences_are_protected_together(spec: Spec, tmp_path: Path) -> None:
    home = Path(str(spec.data))
    text = (home / "train.conll").read_text().split("\n\n")
    documents = [f"-DOCSTART- O\n\n{a}\n\n{b}" for a, b in zip(text[::2], text[1::2], strict=True)]
    (home / "train.conll").write_text("\n\n".join(documents))
    result = train(replace(spec, unit="document"), runs=tmp_path / "runs", machine=FP32)
    card = json.loads((result.path / "privacy.json").read_text())
    assert card["units"] == 80
    assert card["adjacency"] == "adding or removing all examples of one document"
    assert card["rate"] == 0.5
