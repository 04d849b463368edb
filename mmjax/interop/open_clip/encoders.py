"""Text towers that open_clip takes from transformers. A name says all of one but its pooling and
projection."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.huggingface import bert
from mmjax.interop.table import LINEAR, Row

_ROBERTA: dict[str, Any] = {
    "activation": "gelu", "norm_eps": 1e-5, "norm": "post", "embed_norm": True, "token_types": 1,
    "position_offset": 2, "positions": 514, "causal": False, "mask_padding": True,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {  # name → keys of `config.model.text`
    name: _ROBERTA
    | {"vocab_size": vocab, "width": width, "depth": depth, "heads": heads, "mlp_dim": 4 * width}
    for name, vocab, width, depth, heads in (
        ("roberta-base", 50_265, 768, 12, 12),
        ("xlm-roberta-base", 250_002, 768, 12, 12),
        ("xlm-roberta-large", 250_002, 1024, 24, 16),
    )
}
_POOLS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls"}
_HEADS = {"mlp": "narrow_mlp", "linear": "linear", None: "none"}


def is_transformers(text: ConfigDict) -> bool:
    """Whether `config.model.text` is in the form of one of these."""
    return text.norm == "post"


def read(settings: Mapping[str, Any], text: ConfigDict) -> None:
    """Fills in `config.model.text` from `text_cfg`. UserError: another encoder, pool or head."""
    chosen = {
        "hf_model_name": settings["hf_model_name"],
        "hf_pooler_type": settings.get("hf_pooler_type") or "mean_pooler",
        "hf_proj_type": settings.get("hf_proj_type", "mlp"),
    }
    known: dict[str, Mapping[Any, Any]] = {
        "hf_model_name": ENCODERS,
        "hf_pooler_type": _POOLS,
        "hf_proj_type": _HEADS,
    }
    for key, value in chosen.items():
        if value not in known[key]:
            raise UserError(
                f"open_clip_config.json: text_cfg.{key}={value!r} makes a text tower that mmjax "
                f"has not: it has {', '.join(map(str, known[key]))}."
            )
    text.update(ENCODERS[chosen["hf_model_name"]])
    text.update(
        context_length=settings.get("context_length", 77), pool=_POOLS[chosen["hf_pooler_type"]],
        head=_HEADS[chosen["hf_proj_type"]],
    )  # fmt: skip


def obstacles(text: ConfigDict) -> list[str]:
    """Why open_clip has no text tower like this; none if it has."""
    present = {
        f"no encoder of transformers that open_clip has ({', '.join(ENCODERS)}) has its sizes and "
        "form": _find(text) is None,
        f"text is pooled by {text.pool!r}": text.pool not in _POOLS.values(),
        f"the text head is {text.head!r}": text.head not in _HEADS.values(),
    }
    return [reason for reason, there in present.items() if there]


def write(text: ConfigDict) -> dict[str, Any]:
    """The keys of `text_cfg`; KeyError: open_clip has no such encoder."""
    name = _find(text)
    if name is None:
        raise KeyError("text.transformer")
    pools = {ours: theirs for theirs, ours in _POOLS.items()}
    heads = {ours: theirs for theirs, ours in _HEADS.items()}
    return {
        "hf_model_name": name, "hf_tokenizer_name": name, "hf_model_pretrained": False,
        "hf_pooler_type": pools[text.pool], "hf_proj_type": heads[text.head],
        "context_length": text.context_length,
    }  # fmt: skip


def rows(text: ConfigDict) -> list[Row]:
    """The table of `config.model.text`."""
    proj = "text.proj"
    return (
        bert.encoder("text.transformer.")
        + {
            "none": [],
            "linear": [Row("text/head/kernel", f"{proj}.weight", LINEAR)],
            "narrow_mlp": [
                Row("text/head_fc1/kernel", f"{proj}.0.weight", LINEAR),
                Row("text/head_fc2/kernel", f"{proj}.2.weight", LINEAR),
            ],
        }[text.head]
    )


def _find(text: ConfigDict) -> str | None:
    for name, tower in ENCODERS.items():
        if all(text[key] == value for key, value in tower.items()):
            return name
    return None
