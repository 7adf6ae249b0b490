"""Calls of the Hugging Face libraries without their noise, and with errors of one line."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from dpft.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, load reports and retry messages of the Hugging Face libraries inside the context."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as hf

    level, hub_level, bars = hf.get_verbosity(), hub.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hub.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bars:
            hf.enable_progress_bar()


@contextlib.contextmanager
def one_line(model: str) -> Iterator[None]:
    """Convert the errors of transformers for a model that cannot be loaded into one-line UserErrors."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except SafetensorError:
        raise UserError(
            f"weights must be readable safetensors, got a damaged file in {model!r}; copy it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            found = "one that needs code from the hub"
        elif isinstance(error, OSError) and not Path(model).is_dir():
            raise UserError(
                f"the model must be a folder or a hub id that can be reached, got {model!r}, which could not be "
                "fetched; offline, pass --model FOLDER with config.json, model.safetensors and the tokenizer"
            ) from None
        else:
            found = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise UserError(f"the model must load with stock transformers, got {model!r}: {found}; pass --model") from None
