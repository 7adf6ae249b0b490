"""Texts written after prompts, compared with people's texts for the same prompts: BLEU, chrF and ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from dpft.errors import UserError

_NO_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Agreement:
    """How well written texts agree with their references, each from 0 to 100. `prompts`: their number.

    bleu: of the corpus, 4-grams of words in the 13a tokenisation (Papineni et al. 2002; Post 2018). chrf: of the
    corpus, 6-grams of characters, beta 2 (Popović 2015). Both by sacrebleu. rouge_l: the mean of each text's F1 with
    its best reference, by the longest common subsequence (Lin 2004). It is computed here, as rouge-score 0.1.2 does
    without stemming: in lower case, where all but a to z and 0 to 9 separates words. So it is 0 in other scripts.
    """

    prompts: int
    bleu: float
    chrf: float
    rouge_l: float


def by_prompt(prompts: Iterable[str], texts: Iterable[str]) -> dict[str, list[str]]:
    """The texts of each distinct prompt, in the rows' order: equal prompts share their references."""
    found: dict[str, list[str]] = {}
    for prompt, text in zip(prompts, texts, strict=True):
        found.setdefault(prompt, []).append(text)
    return found


def agreement(references: Mapping[str, Sequence[str]], written: Mapping[str, str]) -> Agreement:
    """Compare the text written after each of at least one prompt with the prompt's references.

    Raises UserError where sacrebleu is not installed.
    """
    try:
        from sacrebleu import BLEU, CHRF
    except ImportError:
        raise UserError(
            "BLEU and chrF need the extra `text`, got an installation without sacrebleu; pip install 'dpft[text]'"
        ) from None
    hypotheses = list(written.values())
    own = [references[prompt] for prompt in written]
    columns = list(zip_longest(*own))  # the first reference of every prompt, the second, …; None where there is none
    return Agreement(
        len(hypotheses),
        float(BLEU(force=True).corpus_score(hypotheses, columns).score),  # force: no warning on stderr about full stops
        float(CHRF().corpus_score(hypotheses, columns).score),
        100 * sum(max(rouge_l(text, one) for one in refs) for text, refs in zip(hypotheses, own, strict=True))
        / len(hypotheses),
    )  # fmt: skip


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, from 0 to 1; 0 where one of both has no word."""
    left, right = (_NO_WORD.sub(" ", one.lower()).split() for one in (text, reference))
    common = common_subsequence(left, right)
    return 2 * common / (len(left) + len(right)) if common else 0.0


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence, a bit for each word of `left` (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << at
    every = (1 << len(left)) - 1
    unmatched = every
    for word in right:
        hit = unmatched & places.get(word, 0)
        unmatched = (unmatched + hit | unmatched - hit) & every
    return len(left) - unmatched.bit_count()
