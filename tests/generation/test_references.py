"""BLEU, chrF and ROUGE-L: several references a prompt, against sacrebleu's own sums and a plain table."""

from __future__ import annotations

import sys
from random import Random

import pytest

from dpft.errors import UserError
from dpft.generation.references import agreement, by_prompt, common_subsequence, rouge_l


def table(left: list[str], right: list[str]) -> int:
    """The longest common subsequence by the textbook's table."""
    cells = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            cells[i + 1][j + 1] = cells[i][j] + 1 if one == other else max(cells[i][j + 1], cells[i + 1][j])
    return cells[-1][-1]


def test_the_common_subsequence_is_that_of_the_table() -> None:
    rng = Random(0)
    for _ in range(300):
        left, right = ([rng.choice("abcd") for _ in range(rng.randrange(90))] for _ in range(2))
        assert common_subsequence(left, right) == table(left, right)


@pytest.mark.parametrize(
    ("text", "reference", "f1"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The CAT, sat!", "the cat-sat", 1.0),  # case and punctuation do not count
        ("the cat", "the dog cat ran", 2 * (2 / 2) * (2 / 4) / (2 / 2 + 2 / 4)),
        ("", "the cat", 0.0),
        ("the cat", "", 0.0),
        ("", "", 0.0),
        ("кот", "кот", 0.0),  # as rouge-score 0.1.2 has it: it knows a to z alone
        ("café", "caf noir", 2 * 1 / 3),  # é separates words there
    ],
)
def test_rouge_l_is_f1_of_words_as_rouge_score_reads_them(text: str, reference: str, f1: float) -> None:
    assert rouge_l(text, reference) == pytest.approx(f1)


def test_rows_of_a_prompt_are_references_of_one_hypothesis() -> None:
    assert by_prompt(["a", "b", "a"], ["1", "2", "3"]) == {"a": ["1", "3"], "b": ["2"]}
    assert by_prompt([], []) == {}


def test_a_text_equal_to_any_of_its_references_is_perfect() -> None:
    pytest.importorskip("sacrebleu")
    references = {
        "a": ["it is near the old river", "the pub stands by the river"],
        "b": ["a cheap place for all of us"],
    }
    found = agreement(references, {"a": "the pub stands by the river", "b": "a cheap place for all of us"})
    assert found.prompts == 2
    assert (found.bleu, found.chrf, found.rouge_l) == pytest.approx((100, 100, 100))


def test_one_prompt_and_texts_without_a_word_in_common_have_figures() -> None:
    pytest.importorskip("sacrebleu")
    assert agreement({"a": ["one two"]}, {"a": ""}) == agreement({"a": ["one two"]}, {"a": "  "})
    worst = agreement({"a": ["one two"]}, {"a": "xyz"})
    assert (worst.bleu, worst.rouge_l) == (0, 0)


def test_each_reference_counts_whatever_their_number() -> None:
    """Against sacrebleu one sentence at a time; catches references that are cut to the fewest of any prompt."""
    sacrebleu = pytest.importorskip("sacrebleu")
    rng, words = Random(1), ["a", "b", "c", "d", "e", "f", "g", "the", "of", "in"]

    def text() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randrange(4, 15)))

    references = {str(number): [text() for _ in range(1 + number % 4)] for number in range(40)}
    written = {prompt: text() for prompt in references}
    found = agreement(references, written)
    metric = sacrebleu.metrics.BLEU(effective_order=False)
    stats = [
        metric._compute_segment_statistics(
            metric._preprocess_segment(written[prompt]),
            metric._extract_reference_info([metric._preprocess_segment(one) for one in refs]),
        )
        for prompt, refs in references.items()
    ]
    total = [sum(column) for column in zip(*stats, strict=True)]
    assert found.bleu == pytest.approx(metric._compute_score_from_stats(total).score)
    best = [max(rouge_l(written[prompt], one) for one in refs) for prompt, refs in references.items()]
    assert found.rouge_l == pytest.approx(100 * sum(best) / 40)
    first = agreement({prompt: refs[:1] for prompt, refs in references.items()}, written)
    assert found.bleu > first.bleu


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"pip install 'dpft\[text\]'"):
        agreement({"a": ["b"]}, {"a": "b"})
