"""Every config key once, with its default and what it means (`config_check.py` checks them).

A config file is Python: `get_config(arg) -> ConfigDict`, which starts from `default()`, fills in
`model` from the zoo and adds named entries (sources, objectives, evaluators) with `entry(...)`.
"""

import dataclasses
import json
from typing import Any

from ml_collections import ConfigDict, config_dict


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key. `*` in the path stands for a name that the config chooses."""

    path: str
    default: Any  # a type means: no default (required), or None where `optional`
    meaning: str
    choices: tuple = ()
    optional: bool = False
    resumable: bool = False  # may change when a run is resumed

    def value(self) -> Any:
        if isinstance(self.default, type):
            return config_dict.placeholder(self.default)
        return self.default

    def type(self) -> type:
        return self.default if isinstance(self.default, type) else type(self.default)


_ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
_HEADS = ("linear", "linear_bias", "tanh", "none")
_ATTENTION = ("auto", "xla", "cudnn", "splash")
_REMAT = ("none", "dots", "full")
_SOURCE = (
    ("path", str, "Where the pairs are: a folder, file, glob, URL, tfds://NAME, generated:N."),
    ("format", "auto", "auto, tar, csv, coco, karpathy, parquet, folder, tfds, arrayrecord, text."),
    ("image", "", "Column or feature of the image; '' is the format's usual one."),
    ("caption", "", "Where captions are: txt,json:FIELD (tar), column, feature; '' is the usual."),
    ("tags", "", "Where words for the objects in a picture are: json:FIELD (tar); '' is none."),
    ("regions", False, "A pair of a tar is KEY.npy, region features [n, F], in place of an image."),
    ("label", "", "Field, column or feature of the class number; '' is none."),
    ("group", "", "Field or column of the group id; equal ids are positives; '' is none."),
    ("split", "", "Split of a TFDS data set; '' is train."),
    ("filter", "", "Records that are wanted, e.g. width >= 256 and similarity > 0.28; '' is all."),
    ("bad_shards", 0.0, "Share of missing or damaged tar shards to go on without."),
    ("drop", "", "A file of mmjax data dedup: records to leave out."),
    ("timeout", 60.0, "Seconds that a remote read may take; it is tried three times."),
)


def _tower(name: str, **defaults) -> tuple[Key, ...]:
    """The keys both towers have."""

    def key(field, default, meaning, choices=(), resumable=False):
        default = defaults.get(field, default)
        return Key(f"model.{name}.{field}", default, meaning, choices, resumable=resumable)

    return (
        key("width", 768, "Width of the tokens."),
        key("depth", 12, "Number of blocks."),
        key("heads", 12, "Attention heads; must divide the width."),
        key("mlp_dim", 3072, "Hidden width of the blocks' MLP."),
        key("activation", "gelu", "Activation of the MLP.", _ACTIVATIONS),
        key("norm_eps", 1e-5, "Epsilon of the layer norms."),
        key("head", "linear", "Projection into the shared space; tanh: with bias and tanh, as "
            "BERT's pooler.", _HEADS),
        key("attention", "auto", "Kernel: auto, xla, or what GPUs (cudnn) and TPUs (splash) have.",
            _ATTENTION, True),
        key("remat", "none", "What the backward pass recomputes to save memory.", _REMAT, True),
        key("unroll", True, "Write the layers out (fast on CPU) or loop (compiles fast).",
            resumable=True),
    )  # fmt: skip


KEYS: tuple[Key, ...] = (
    Key("seed", 0, "Seed of initialisation, data order and augmentation."),
    Key("total_steps", 10_000, "Steps of the run; the schedule ends there."),
    Key("batch_size", 256, "Global batch: pairs a step over all devices."),
    Key("deterministic", False, "The same bits in every run on GPUs, too, where that costs time "
        "(CPUs and TPUs always give them).", resumable=True),
    # Model. `mmjax.models.zoo.config(NAME)` fills these in for a named architecture.
    Key("model.name", "custom", "Name of the architecture, for logs and exports."),
    Key("model.towers", ("image", "text"), "Both, or the one that there is: ('text',) is a BERT."),
    Key("model.embed_dim", 512, "Width of the shared embedding space."),
    Key("model.logit_scale_init", 2.6592600, "Initial log of the logit scale; CLIP: ln(1/0.07)."),
    Key("model.logit_scale_max", 100.0, "Largest logit scale, clamped after each update; 0: none."),
    Key("model.logit_bias_init", float, "Initial logit bias (SigLIP: -10); None: no bias.",
        optional=True),
    Key("model.dtype", "auto", "Compute dtype of the towers; auto: float32 on CPU, else bfloat16.",
        ("auto", "float32", "bfloat16")),
    Key("model.image.kind", "vit", "A vision transformer, the ResNet of OpenAI's RN50, or what an "
        "object detector found (region features, for a fusion).", ("vit", "resnet", "regions")),
    Key("model.image.regions", 50, "regions: how many of a picture are read, the first ones."),
    Key("model.image.region_width", 2_054, "regions: numbers of each, its box included."),
    Key("model.image.stages", (), "resnet: blocks of its stages, each twice as wide as the last."),
    Key("model.image.size", 224, "Side of the square image in pixels."),
    Key("model.image.patch_size", 32, "Side of a patch in pixels."),
    *_tower("image"),
    Key("model.image.pool", "cls", "How tokens become one: class token, mean, attention (map), the "
        "first of several attention queries (queries; open_clip's CoCa).",
        ("cls", "mean", "map", "queries")),
    Key("model.image.queries", 256, "pool=queries: how many; the others give tokens for a fusion."),
    Key("model.image.pool_heads", 8, "pool=queries: heads of their attention."),
    Key("model.image.position", "learned", "Position embedding.", ("learned", "sincos")),
    Key("model.image.norm_pre", True, "A layer norm before the blocks, as CLIP has."),
    Key("model.image.patch_bias", False, "A bias in the patch embedding."),
    Key("model.image.patch_dropout", 0.0, "Share of patches dropped in training (FLIP)."),
    Key("model.image.pixel_head", False, "A head for the pixels of patches, for patch_pixels."),
    Key("model.image.mean", (0.48145466, 0.4578275, 0.40821073), "Mean of RGB in 0..1."),
    Key("model.image.std", (0.26862954, 0.26130258, 0.27577711), "Deviation of RGB in 0..1."),
    Key("model.text.vocab_size", 49_408, "Rows of the token embedding."),
    Key("model.text.context_length", 77, "Most tokens of a text, start and end included."),
    *_tower("text", width=512, heads=8, mlp_dim=2048),
    Key("model.text.norm", "pre", "Layer norms before attention and MLP, or after them (BERT).",
        ("pre", "post")),
    Key("model.text.embed_norm", False, "A layer norm before the blocks, as BERT has."),
    Key("model.text.token_types", 0, "Rows of BERT's type embedding: the first is of words, the "
        "second of tags."),
    Key("model.text.tags", 0, "Last places of a text that hold the tags of its picture (Oscar)."),
    Key("model.text.position_offset", 0, "Row of the position embedding where a text begins; "
        "RoBERTa: 2."),
    Key("model.text.mlm_head", False, "BERT's masked-language head, for token_logits."),
    Key("model.text.causal", True, "A token sees earlier tokens only."),
    Key("model.text.mask_padding", False, "Padding is not attended to (needless if causal)."),
    Key("model.text.pool", "eot", "Which token is the text: end, first, last place, mean, or one "
        "that is appended (open_clip's CoCa).", ("eot", "cls", "last", "mean", "appended")),
    Key("model.fusion.style", "none", "How text and image tokens meet: in one stream, by "
        "cross-attention of the text, through a few shared tokens.",
        ("none", "concat", "cross", "bottleneck")),
    Key("model.fusion.depth", 6, "Layers that fuse, made as the text tower's. 0: a joint head "
        "alone. Both towers of depth 0: early fusion, all layers are these."),
    Key("model.fusion.n_bottlenecks", 4, "bottleneck: how many tokens both streams share."),
    # Weights to start from: read once, before the first step of a fresh run.
    Key("init_from.source", "", "Folder, file, workdir or hub name of the weights that a fresh run "
        "starts from; '': random.", resumable=True),
    Key("init_from.parts", (), "Patterns of what is taken, e.g. ('image/',) for LiT; (): all that "
        "fits.", resumable=True),
    # Objectives: a name in the registry → its weight and options (`mmjax/objectives`).
    Key("objectives.*.kind", "", "What it computes, of the registry; '' is the entry's name."),
    Key("objectives.*.weight", 1.0, "Weight in the total loss."),
    # Teachers that objectives learn from, by a name that the config chooses (`mmjax/teachers`).
    Key("teachers.*.source", "", "Weights: whatever mmjax.load takes (a workdir, folder, file, "
        "hub name), or random:ARCHITECTURE for plans and smoke runs.", resumable=True),
    Key("teachers.*.cached", "", "Folder that mmjax embed wrote, in place of running it; '': it "
        "runs in the step.", resumable=True),
    Key("teachers.*.dtype", "bfloat16", "What its embeddings are rounded to, cached or not.",
        ("bfloat16", "float32")),
    Key("teachers.*.start", False, "The student starts from it: every k-th layer, the leading "
        "heads and channels."),
    # Mesh.
    Key("mesh.data", -1, "Replicas; -1: all remaining devices.", resumable=True),
    Key("mesh.fsdp", 1, "Devices that split parameters and batch.", resumable=True),
    Key("mesh.tensor", 1, "Devices that split heads and hidden units.", resumable=True),
    # Optimizer.
    Key("optim.name", "adamw", "Optimizer (optax's own).", ("adamw", "lion", "adafactor", "muon")),
    Key("optim.lr", 1e-3, "Peak learning rate."),
    Key("optim.schedule", "cosine", "After the warm-up.", 
        ("cosine", "linear", "constant", "rsqrt")),
    Key("optim.warmup_steps", 0, "Steps of linear warm-up from 0."),
    Key("optim.weight_decay", 0.2, "Decoupled weight decay, on matrices only."),
    Key("optim.b1", 0.9, "Decay of the first moment (Muon: of its momentum and Adam's)."),
    Key("optim.b2", 0.98, "Decay of the second moment."),
    Key("optim.eps", 1e-6, "Added to the root of the second moment."),
    Key("optim.grad_clip", 0.0, "Largest global norm of the gradient; 0: no clipping."),
    Key("optim.ema", 0.0, "Decay of an average of the parameters, evaluated and exported; 0: off."),
    Key("optim.freeze", (), "Patterns of parameters that stay, e.g. ('image/',) for LiT."),
    Key("optim.lr_scale", (), "(pattern, factor) pairs on the learning rate; factors multiply."),
    Key("optim.layer_decay", 1.0, "Factor on the learning rate a layer further from the output."),
    Key("optim.microbatches", 1, "Embed the batch in this many parts; the negatives stay global.",
        resumable=True),
    Key("optim.max_nonfinite", 10, "Non-finite losses in a row, each skipped, before stopping.",
        resumable=True),
    Key("optim.max_spike", 0.0, "A loss above this many times its running mean is skipped as a "
        "non-finite one is; 0: none is.", resumable=True),
    # Data.
    *(Key(f"data.train.*.{name}", default, meaning) for name, default, meaning in _SOURCE),
    Key("data.train.*.weight", 1.0, "Share in the mixture of sources."),
    Key("data.train.*.caption_weights", (), "How often to take a caption of each part of caption, "
        "e.g. (0.3, 0.7); (): any of them."),
    Key("data.train.*.run", 0, "Neighbouring records visited together, in one request where they "
        "are remote; 0: what the format reads at once (one, or a row group)."),
    Key("data.tokenizer", "captions:4096", "Local folder or hub name of a tokenizer, or captions:N "
        "for a CLIP-style BPE of at most N tokens trained on the training captions, or init_from "
        "for that of the weights."),
    Key("data.text_lengths", (), "Lengths that texts are trimmed to, e.g. (16, 32); (): full."),
    Key("data.pack", 0, "Texts that share a row on average, in a model of texts alone: each "
        "sees itself only, as in a row of its own. batch_size counts rows. 0: one a row."),
    Key("data.resize", "shortest", "Outside training: shortest side to size, then the centre; or "
        "squash to the square.", ("shortest", "squash")),
    Key("data.interpolation", "bicubic", "Outside training, of the resize.",
        ("bicubic", "bilinear")),
    Key("data.augment.crop_scale", (0.9, 1.0), "Area of a random crop as a share of the picture's; "
        "above 1 shows the background around."),
    Key("data.augment.crop_ratio", (3 / 4, 4 / 3), "Width / height of the crop."),
    Key("data.augment.flip", 0.0, "Probability of a mirror image."),
    Key("data.augment.rotate", 0.0, "Largest angle in degrees."),
    Key("data.augment.translate", 0.0, "Largest shift as a share of the crop."),
    Key("data.augment.brightness", 0.0, "Factor drawn from 1 ± this."),
    Key("data.augment.contrast", 0.0, "Factor drawn from 1 ± this."),
    Key("data.augment.saturation", 0.0, "Factor drawn from 1 ± this."),
    Key("data.augment.hue", 0.0, "Largest shift of the hue, in turns (0.5 is all)."),
    Key("data.augment.grayscale", 0.0, "Probability of losing all colour."),
    Key("data.augment.background", "white", "Colour behind transparent pictures.",
        ("white", "random")),
    Key("data.views", 0, "Augmented views of an example, repeated epoch after epoch, so that a "
        "teacher's embeddings of them can be cached; 0: a new one each epoch."),
    Key("data.workers", 0, "Worker processes that load data; 0: threads.", resumable=True),
    Key("data.prefetch", 2, "Batches loaded ahead (for each worker).", resumable=True),
    Key("data.max_pixels", 89_478_485, "Pixels above which an image counts as unreadable."),
    Key("data.max_bad", 0.01, "Largest share of unreadable examples before the run stops.",
        resumable=True),
    # Evaluation while training.
    *(Key(f"evals.*.{name}", default, meaning, resumable=True)
      for name, default, meaning in _SOURCE if name != "split"),
    Key("evals.*.split", "", "Split of a TFDS data set or Karpathy's; '' is test, validation for "
        "imagenet2012, train for the task loss.", resumable=True),
    Key("evals.*.task", str, "What is measured.",
        ("classification", "imagenet", "knn", "loss", "probe", "retrieval"), resumable=True),
    Key("evals.*.every", 0, "Steps between evaluations; 0: at the end only.", resumable=True),
    Key("evals.*.batch_size", 256, "Global batch of the evaluation.", resumable=True),
    Key("evals.*.allow_skips", False, "Leave out images that cannot be read, counted and named; "
        "else they fail the evaluation.", resumable=True),
    Key("evals.*.classes", "", "classification: a file of one class name a line in order of label, "
        "or imagenet (imagenet's default).", resumable=True),
    Key("evals.*.templates", "", "classification: a file of prompts with {} for the name, imagenet "
        "(80 of them, imagenet's default) or plain (the name alone).", resumable=True),
    Key("evals.*.protocol", "open_clip", "classification: words as they are, or big_vision: lower "
        "case and no punctuation.", ("open_clip", "big_vision"), resumable=True),
    Key("evals.*.subset", "", "classification: the classes to choose from: a file of one a line, "
        "present (those that occur) or all; '' is all, but present for -A and -R.", resumable=True),
    Key("evals.*.real", "", "imagenet: the file real.json of ReaL labels.", resumable=True),
    Key("evals.*.train", "", "probe, knn: path of the training set; '' is the same path.",
        resumable=True),
    Key("evals.*.train_split", "", "probe, knn: its split; '' is train.", resumable=True),
    Key("evals.*.shots", (), "probe: images a class of few-shot probes, e.g. (1, 2, 4, 8, 16).",
        resumable=True),
    Key("evals.*.k", 20, "knn: how many neighbours vote.", resumable=True),
    Key("evals.*.temperature", 0.07, "knn: a neighbour's weight is exp(cosine / temperature).",
        resumable=True),
    Key("evals.*.candidates", "", "retrieval: '' each caption is a text of its own (COCO); "
        "captions: the distinct ones; a file of one text a line: these too.", resumable=True),
    # Checkpoints and logs.
    Key("checkpoint.every", 1_000, "Steps between checkpoints; the last step always has one.",
        resumable=True),
    Key("checkpoint.keep", 3, "Newest checkpoints kept.", resumable=True),
    Key("checkpoint.keep_every", 0, "Those of multiples of this many steps are kept, too; 0: none.",
        resumable=True),
    Key("checkpoint.best", "", "NAME/METRIC of an evaluation whose best checkpoint is kept, too.",
        resumable=True),
    Key("checkpoint.best_is", "largest", "Which value of that metric is best.",
        ("largest", "smallest"), resumable=True),
    Key("profile.steps", "", "FIRST:END, as 10:15: the XProf trace of the steps from FIRST up to, "
        "without, END goes into WORKDIR/profile; '': none.", resumable=True),
    Key("log.every", 50, "Steps between log lines.", resumable=True),
    Key("log.watchdog", 600.0, "Seconds without progress after which the log names host, step and "
        "phase; 0: never.", resumable=True),
    Key("log.gradient_norms", False, "Log the gradient's norm of each objective, too: a backward "
        "pass each.", resumable=True),
    Key("log.tensorboard", True, "Write TensorBoard events into the workdir.", resumable=True),
    Key("log.wandb", "", "Weights & Biases project to log to; '': none.", resumable=True),
)  # fmt: skip

_BY_PATH = {key.path: key for key in KEYS}


def default() -> ConfigDict:
    """A config with every key at its default; named entries (sources, …) are still empty."""
    tree: dict[str, Any] = {}
    for key in KEYS:
        parents, _, name = key.path.rpartition(".")
        named, _, _ = parents.partition(".*")  # an entry's keys come with the entry
        node = tree
        for parent in filter(None, named.split(".")):
            node = node.setdefault(parent, {})
        if "*" not in key.path:
            node[name] = key.value()
    return ConfigDict(tree)


def entry(kind: str, /, **values: Any) -> ConfigDict:
    """A named entry of `kind` ("data.train", "objectives", "teachers", "evals"), `values` over
    defaults.

    >>> config.data.train.mine = entry("data.train", path="pairs.csv")
    """
    prefix = f"{kind}.*."
    node = ConfigDict({k.path.removeprefix(prefix): k.value() for k in KEYS if prefix in k.path})
    with node.unlocked():
        node.update(values)
    return node


def describe() -> str:
    """All keys, two lines each: name and default, meaning."""
    lines = []
    for key in KEYS:
        default = f"<{key.default.__name__}>" if isinstance(key.default, type) else key.default
        meaning = key.meaning + (f" One of {', '.join(key.choices)}." if key.choices else "")
        lines.append(f"  config.{key.path} = {default!r}\n      {meaning}")
    return "\n".join(lines)


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; `from_json` reads it back, tuples as tuples."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """A config written by `to_json`. Keys that are newer than the file have their defaults."""

    def tuples(value):
        if isinstance(value, dict):
            return {name: tuples(item) for name, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    config = default()
    config.update(tuples(json.loads(text)))
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same run made small: a few steps of tiny towers on generated pairs, on any machine.

    Objectives, optimizer, schedule and evaluators stay what they are, so that `configs/x.py:smoke`
    tries all of a recipe but its size.
    """
    model = config.model
    model.update(embed_dim=32, name=f"{model.name} (smoke)")
    model.image.update(size=32, patch_size=8, regions=3, region_width=16)  # as generated ones
    model.text.update(vocab_size=600, context_length=16, tags=min(model.text.tags, 6))
    for tower in (model.image, model.text):
        tower.update(width=32, depth=min(tower.depth, 2), heads=4, mlp_dim=64)
    model.fusion.depth = min(model.fusion.depth, 2)
    config.update(total_steps=6, batch_size=16)
    config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
    config.optim.microbatches = min(config.optim.microbatches, 2)
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    regions, tags = model.image.kind == "regions", "generated" if model.text.tags else ""
    source = entry("data.train", path="generated:64", regions=regions, tags=tags)
    config.data.train = {"generated": source}
    config.data.workers = min(config.data.workers, 1)
    config.data.pack = min(config.data.pack, 2)
    config.data.tokenizer = "captions:600"
    config.init_from.source = ""  # towers of another size
    config.data.text_lengths = (8, 16) if config.data.text_lengths else ()
    for name, teacher in config.teachers.items():
        start = teacher.start
        source = "random:tiny" if "image" in model.towers else "random:tiny-bert"
        config.teachers[name] = entry("teachers", source=source, start=start)
    for name, spec in config.evals.items():
        config.evals[name] = entry(
            "evals",
            task=spec.task,
            every=3,
            path="generated:24",
            batch_size=16,
            classes="imagenet" if spec.classes else "",
            templates="plain",
            train="generated:32",
        )
    config.checkpoint.every = 3
    config.log.every = 2
    return config
