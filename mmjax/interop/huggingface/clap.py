"""ClapModel of transformers: LAION's CLAP (Wu et al., 2023) without feature fusion."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import bert, sounds
from mmjax.interop.huggingface.architecture import (
    ACTIVATIONS,
    FROM_ACTIVATIONS,
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.models import parts
from mmjax.models.towers.htsat import relative_positions

_AUDIO = "audio_model.audio_encoder"
# Values of what mmjax does; others are refused by name.
_FIXED = {
    "enable_fusion": False, "patch_embed_input_channels": 1, "flatten_patch_embeds": True,
    "enable_patch_layer_norm": True, "qkv_bias": True, "projection_hidden_act": "relu",
}  # fmt: skip


def rows(model: ConfigDict) -> list[Row]:
    return [
        *_audio_rows(model),
        *bert.encoder("text_model."),
        *linear("text/pooler", "text_model.pooler.dense"),
        *linear("text/head_fc1", "text_projection.linear1"),
        *linear("text/head_fc2", "text_projection.linear2"),
        Row("logit_scale", "logit_scale_a"),
        Row("logit_text_scale", "logit_scale_t"),
    ]


def _audio_rows(model: ConfigDict) -> list[Row]:
    table = [
        *norm("audio/norm_mel", f"{_AUDIO}.batch_norm"),
        Row("audio/norm_mel/mean", f"{_AUDIO}.batch_norm.running_mean"),
        Row("audio/norm_mel/var", f"{_AUDIO}.batch_norm.running_var"),
        Row("audio/patch_embed/kernel", f"{_AUDIO}.patch_embed.proj.weight", CONV),
        Row("audio/patch_embed/bias", f"{_AUDIO}.patch_embed.proj.bias"),
        *norm("audio/norm_patch", f"{_AUDIO}.patch_embed.norm"),
        *norm("audio/norm_post", f"{_AUDIO}.norm"),
        *linear("audio/head_fc1", "audio_projection.linear1"),
        *linear("audio/head_fc2", "audio_projection.linear2"),
    ]
    for stage, count in enumerate(model.audio.stages):
        merge, theirs = f"audio/stage{stage + 1}_merge", f"{_AUDIO}.layers.{stage - 1}.downsample"
        if stage:
            table += norm(f"{merge}/norm", f"{theirs}.norm")
            table.append(Row(f"{merge}/reduction/kernel", f"{theirs}.reduction.weight", LINEAR))
        for number in range(count):
            ours, theirs = f"audio/stage{stage + 1}_block{number}", _block(stage, number)
            attention = f"{theirs}.attention"
            bias = f"{attention}.self.relative_position_bias_table"
            table += [
                *norm(f"{ours}/norm1", f"{theirs}.layernorm_before"),
                Row(f"{ours}/attention/position_bias", bias),
                *linear(f"{ours}/attention/query", f"{attention}.self.query"),
                *linear(f"{ours}/attention/key", f"{attention}.self.key"),
                *linear(f"{ours}/attention/value", f"{attention}.self.value"),
                *linear(f"{ours}/attention/out", f"{attention}.output.dense"),
                *norm(f"{ours}/norm2", f"{theirs}.layernorm_after"),
                *linear(f"{ours}/mlp/fc1", f"{theirs}.intermediate.dense"),
                *linear(f"{ours}/mlp/fc2", f"{theirs}.output.dense"),
            ]
    return table


def _block(stage: int, number: int) -> str:
    return f"{_AUDIO}.layers.{stage}.blocks.{number}"


def constants(model: ConfigDict) -> dict[str, np.ndarray]:
    """What its files hold beside parameters: tables that follow from the config, and how many
    batches the batch norm has seen, which nothing reads."""
    positions = model.text.context_length + model.text.position_offset
    tables = {
        "text_model.embeddings.position_ids": np.arange(positions)[None],
        "text_model.embeddings.token_type_ids": np.zeros((1, positions), np.int64),
        f"{_AUDIO}.batch_norm.num_batches_tracked": np.zeros((), np.int64),
    }
    for stage, count in enumerate(model.audio.stages):
        for number in range(count):
            index = f"{_block(stage, number)}.attention.self.relative_position_index"
            tables[index] = relative_positions(model.audio.window_tokens)
    return tables


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import ClapConfig

    theirs: Any = ClapConfig.from_dict(dict(settings))
    audio, text, offset = (
        theirs.audio_config,
        theirs.text_config,
        theirs.text_config.pad_token_id + 1,
    )
    _check(audio)
    scale = {"kind": "scale", "initial": math.log(theirs.logit_scale_init_value)}
    return parts.complete(
        {
            "embed_dim": theirs.projection_dim,
            "audio": {
                "kind": "htsat", "bins": audio.num_mel_bins, "size": audio.spec_size,
                "patch_size": _side(audio.patch_size), "width": audio.patch_embeds_hidden_size,
                "stages": tuple(audio.depths), "stage_heads": tuple(audio.num_attention_heads),
                "window_tokens": audio.window_size, "mlp_ratio": float(audio.mlp_ratio),
                "activation": FROM_ACTIVATIONS[audio.hidden_act],
                "norm_eps": float(audio.layer_norm_eps), "head": "mlp",
            },
            "text": {
                "kind": "transformer", **read_tower(text), "vocab_size": text.vocab_size,
                "context_length": text.max_position_embeddings - offset, "norm": "post",
                "embed_norm": True, "token_types": text.type_vocab_size, "position_offset": offset,
                "causal": False, "mask_padding": True, "pool": "cls", "head": "tanh_mlp",
            },
            "logit": scale,
            "logit_text": scale,
        }
    )  # fmt: skip


def _check(audio: Any) -> None:
    """UserError: an audio tower of another form."""
    refused = [
        f"{key}={getattr(audio, key)!r}"
        for key, value in _FIXED.items()
        if getattr(audio, key) != value
    ]
    if _side(audio.patch_size) != _side(audio.patch_stride):
        refused.append(
            f"patch_stride={audio.patch_stride!r} beside patch_size={audio.patch_size!r}"
        )
    if audio.hidden_act not in FROM_ACTIVATIONS:
        refused.append(f"hidden_act={audio.hidden_act!r}")
    if refused:
        raise UserError(
            f"mmjax has no such audio tower of CLAP ({', '.join(refused)}): it reads those without "
            "feature fusion, as laion/clap-htsat-unfused."
        )


def _side(sides: Any) -> Any:
    """A number that stands for both sides; of two different ones, both."""
    sides = [sides, sides] if isinstance(sides, int) else list(sides)
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import ClapConfig

    audio, text = model.audio, model.text
    tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id"))
    if tokenizer is not None:
        tokens = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.eot_id}
    return ClapConfig(
        architectures=["ClapModel"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=math.exp(model.logit.initial),
        audio_config={
            "num_mel_bins": audio.bins,
            "spec_size": audio.size,
            "patch_size": audio.patch_size,
            "patch_stride": [audio.patch_size] * 2,
            "patch_embeds_hidden_size": audio.width,
            "hidden_size": audio.width * 2 ** (len(audio.stages) - 1),
            "depths": list(audio.stages),
            "num_hidden_layers": len(audio.stages),
            "num_attention_heads": list(audio.stage_heads),
            "window_size": audio.window_tokens,
            "mlp_ratio": audio.mlp_ratio,
            "hidden_act": ACTIVATIONS[audio.activation],
            "layer_norm_eps": audio.norm_eps,
            "enable_fusion": False,
        },
        text_config={
            **write_tower(text),
            **tokens,
            "pad_token_id": text.position_offset - 1,  # where its positions begin
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length + text.position_offset,
            "type_vocab_size": text.token_types,
        },
    )


def _read_back(model: ConfigDict) -> ConfigDict:
    found = read_back(rows, read_config, write_config)(model)
    found.audio.update(sounds.keys_of(sounds.write(model)))
    return found


def obstacles(model: ConfigDict) -> list[str]:
    found = []
    if not 0 < model.text.position_offset <= model.text.vocab_size:
        found.append("its positions begin after that of padding, which is an id")
    return found


CARD = (
    "library_name: transformers\npipeline_tag: zero-shot-audio-classification",
    """\
import soundfile
from transformers import ClapModel, ClapProcessor

model, processor = ClapModel.from_pretrained("."), ClapProcessor.from_pretrained(".")
sound, rate = soundfile.read("dog.wav")  # of one channel, at the model's rate
inputs = processor(text=["a dog barks", "rain"], audio=sound, sampling_rate=rate,
                   return_tensors="pt", padding=True)
print(model(**inputs).logits_per_audio.softmax(dim=-1))""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's ClapModel",
        parts=(
            {
                "audio": ("htsat",), "text": ("transformer",), "logit": ("scale",),
                "logit_text": ("scale",),
            },
        ),
        rows=rows,
        read_back=_read_back,
        ignored=(
            r"text_model\.embeddings\.(position|token_type)_ids",
            r".*\.relative_position_index",
            r".*\.num_batches_tracked",
        ),
        obstacles=obstacles,
    ),
    model_type="clap",
    classes=("ClapModel",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=lambda config: sounds.write(config.model),
    read_preprocessor=sounds.read,
    constants=constants,
    card=CARD,
)  # fmt: skip
