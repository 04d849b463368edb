"""BERT and RoBERTa of transformers, with the masked-language head and without.

A sentence-transformers folder is a BertModel whose text is the mean of its tokens.
"""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface.architecture import (
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import Row
from mmjax.models import zoo

_MLM = {  # dense, norm, bias
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
             "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}  # fmt: skip


def encoder(base: str) -> list[Row]:
    """The rows up to the last layer; their names begin with `base`."""
    embeddings, layer = f"{base}embeddings", f"{base}encoder.layer.{{}}"
    blocks = "text/blocks"
    return [
        Row("text/token_embed/embedding", f"{embeddings}.word_embeddings.weight"),
        Row("text/position_embed", f"{embeddings}.position_embeddings.weight"),
        Row("text/type_embed", f"{embeddings}.token_type_embeddings.weight"),
        *norm("text/norm_embed", f"{embeddings}.LayerNorm"),
        *linear(f"{blocks}/attention/query", f"{layer}.attention.self.query"),
        *linear(f"{blocks}/attention/key", f"{layer}.attention.self.key"),
        *linear(f"{blocks}/attention/value", f"{layer}.attention.self.value"),
        *linear(f"{blocks}/attention/out", f"{layer}.attention.output.dense"),
        *norm(f"{blocks}/norm1", f"{layer}.attention.output.LayerNorm"),
        *linear(f"{blocks}/mlp/fc1", f"{layer}.intermediate.dense"),
        *linear(f"{blocks}/mlp/fc2", f"{layer}.output.dense"),
        *norm(f"{blocks}/norm2", f"{layer}.output.LayerNorm"),
    ]


def rows(model: ConfigDict) -> list[Row]:
    kind = "roberta" if model.text.position_offset else "bert"
    base = f"{kind}." if model.text.mlm_head else ""
    table = encoder(base)
    if model.text.head == "tanh":
        table += linear("text/head", f"{base}pooler.dense")
    if model.text.mlm_head:
        dense, layer_norm, bias = _MLM[kind]
        table += [
            *linear("text/mlm/dense", dense),
            *norm("text/mlm/norm", layer_norm),
            Row("text/mlm/bias", bias),
        ]
    return table


def _architecture(kind: str, class_name: str, mlm: bool) -> Architecture:
    suffix = "ForMaskedLM" if mlm else "Model"

    def names(tensors: Tensors) -> Tensors:
        """BERT's first checkpoints say gamma and beta; headless ones may carry their prefix."""
        spelled = {
            re.sub(r"LayerNorm\.(gamma|beta)$", _modern_norm, name): tensor
            for name, tensor in tensors.items()
        }
        if mlm:
            return spelled
        return {name.removeprefix(f"{kind}."): tensor for name, tensor in spelled.items()}

    def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
        import transformers

        theirs = getattr(transformers, f"{class_name}Config").from_dict(dict(settings))
        if getattr(theirs, "is_decoder", False):
            raise ValueError("it is a decoder")
        if mlm and not getattr(theirs, "tie_word_embeddings", True):
            raise ValueError("its unembedding is another matrix than its embedding")
        # RoBERTa's positions begin after that of padding, which is its id.
        offset = theirs.pad_token_id + 1 if kind == "roberta" else 0
        has_pooler = not mlm and "pooler.dense.weight" in tensors
        model = zoo.default("text")
        model.embed_dim = theirs.hidden_size
        model.text.update(
            **read_tower(theirs), vocab_size=theirs.vocab_size,
            context_length=theirs.max_position_embeddings - offset, norm="post", embed_norm=True,
            token_types=theirs.type_vocab_size, position_offset=offset, causal=False,
            mask_padding=True, pool="cls", head="tanh" if has_pooler else "none", mlm_head=mlm,
        )  # fmt: skip
        return model

    def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
        import transformers

        offset = model.text.position_offset
        tokens: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id"))
        tokens["pad_token_id"] = 0
        if tokenizer is not None:
            tokens = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.eot_id}
            tokens["pad_token_id"] = tokenizer.pad_id
        if kind == "roberta":
            tokens["pad_token_id"] = offset - 1  # where its positions begin
        return getattr(transformers, f"{class_name}Config")(
            **write_tower(model.text),
            **tokens,
            architectures=[class_name + suffix],
            dtype="float32",
            vocab_size=model.text.vocab_size,
            max_position_embeddings=model.text.context_length + offset,
            type_vocab_size=model.text.token_types,
        )

    def obstacles(model: ConfigDict) -> list[str]:
        none = not mlm and model.text.head != "tanh"  # transformers would make a random one
        found = [f"the text head is {model.text.head!r}, not 'tanh'"] * none
        if kind == "roberta" and not 0 < model.text.position_offset <= model.text.vocab_size:
            found.append("its positions begin after that of padding, which is an id")
        return found

    pretraining = (f"{class_name}ForPreTraining",) if mlm else ()
    # What transformers' headless classes leave, and its masked-language ones tie or leave.
    ignored = [r"(\w+\.)?embeddings\.position_ids", r"(\w+\.)?pooler\..*", r"cls\.seq_.*"]
    ignored += [r"(cls\.predictions|lm_head)\.decoder\..*" if mlm else r"(cls|lm_head)\..*"]
    return Architecture(
        family=Family(
            f"Hugging Face's {class_name}{suffix}",
            parts=({"text": ("transformer",)},),
            rows=rows,
            read_back=read_back(rows, read_config, write_config),
            ignored=tuple(ignored),
            obstacles=obstacles,
        ),
        model_type=kind,
        classes=(class_name + suffix, *pretraining),
        read_config=read_config,
        write_config=write_config,
        preprocessor=lambda config: {},
        card=(
            "library_name: transformers\n"
            f"pipeline_tag: {'fill-mask' if mlm else 'feature-extraction'}",
            f"""\
from transformers import AutoTokenizer, {class_name}{suffix}

model, tokenizer = {class_name}{suffix}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
print(model(**tokenizer("a cat", return_tensors="pt"))[0])""",
        ),
        names=names,
    )


def _modern_norm(match: re.Match) -> str:
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match[1]]


MODELS = tuple(
    _architecture(kind, class_name, mlm)
    for kind, class_name in (("bert", "Bert"), ("roberta", "Roberta"))
    for mlm in (False, True)
)
