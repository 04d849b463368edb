"""Where OpenAI's vocabulary of CLIP is on this machine: its weights bring none of their own."""

import importlib.util
from pathlib import Path

from mmjax.errors import UserError

BPE = "bpe_simple_vocab_16e6.txt.gz"


def find_bpe(folder: Path | None = None) -> Path:
    """OpenAI's vocabulary in the folder of weights, else in an installed open_clip or clip.

    Raises:
      UserError: it is in none of them.
    """
    folders = [folder] if folder else []
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)  # imports nothing
        folders += [Path(path) for path in (spec and spec.submodule_search_locations) or ()]
    for candidate in folders:
        if (candidate / BPE).is_file():
            return candidate / BPE
    if folder is None:
        raise UserError(
            f"The tokenizer of CLIP is not on this machine: pip install --no-deps open_clip_torch, "
            f"which has it, or name OpenAI's {BPE} by its path."
        )
    raise UserError(
        f"{folder} holds weights without a tokenizer: put OpenAI's {BPE} or a tokenizer's files "
        "(tokenizer.json, …) beside them, name either as the tokenizer (--tokenizer=PATH, "
        "tokenizer=…), or pip install --no-deps open_clip_torch, which has it."
    )
