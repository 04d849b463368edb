"""Config keys: one place, and mistakes that stop before the first step with a sentence."""

import jax
import pytest
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import config_check, models
from mmjax.errors import UserError
from mmjax.models import parts


@pytest.fixture
def config():
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config.data.train.pairs = config_lib.entry("data.train", path="pairs.csv")
    config.evals.held = config_lib.entry("evals", path="held.csv", kind="retrieval")
    return config


def test_every_key_has_a_meaning_and_stands_once():
    described = config_lib.describe()
    declared = [*config_lib.SECTIONS.items(), *config_lib.ENTRIES.items()]
    declared += [
        (section, keys)
        for section in config_lib.ENTRIES
        for keys in config_lib.kinds(section).values()
    ]
    for section, keys in declared:
        assert len(keys) == len({key.name for key in keys})
        for key in keys:
            assert key.meaning.endswith("."), f"{section}.{key.name}"
            assert f".{key.name} = " in described


@pytest.mark.parametrize(
    "kind",
    [kind for kind, keys in config_lib.kinds("model").items() if set(keys) > {*parts.COMMON}],
)
def test_every_kind_of_part_is_described_with_its_keys(kind):
    described = config_lib.describe().split("config.model.*.kind")[1].split("config.objectives")[0]
    (own,) = [text for text in described.split("  Of the kind ") if text.startswith(f"{kind}:\n")]
    for key in config_lib.kinds("model")[kind]:
        if key not in parts.COMMON:
            assert key.meaning.endswith("."), key.name
            assert f"  config.model.*.{key.name} = " in own
            assert key.meaning in own


def test_valid_config_survives_json(config):
    config_check.validate(config)
    again = config_lib.from_json(config_lib.to_json(config))
    config_check.validate(again)
    assert again.to_dict() == config_lib.complete(config).to_dict()
    assert isinstance(again.data.augment.crop_scale, tuple)


def test_kernels_of_other_hardware_are_refused(config):
    for platform in ("cpu", "gpu", "tpu"):
        config_check.validate_on_platform(config, platform)
    config.model.text.attention = "cudnn"
    config_check.validate_on_platform(config, "gpu")
    with pytest.raises(UserError, match=r"text\.attention='cudnn' runs on gpus, and this is a cpu"):
        config_check.validate_on_platform(config, "cpu")


def test_older_config_gets_new_keys_defaults(config):
    text = config_lib.to_json(config).replace('"max_bad"', '"removed_long_ago"')
    assert config_lib.from_json(text).data.max_bad == config.data.max_bad


BAD = {
    "unknown key": (
        lambda c: c.optim.update(lrr=1.0),
        r"config\.optim\.lrr: there is no such key; the nearest is config\.optim\.lr\.",
    ),
    "unknown key of an entry": (
        lambda c: c.data.train.pairs.update(pth="x"),
        r"the nearest is config\.data\.train\.pairs\.path",
    ),
    "unknown objective": (
        lambda c: c.objectives.update(clp=config_lib.entry("objectives")),
        r"config\.objectives\.clp: there is no such kind of objective; the nearest is 'clip'",
    ),
    "unknown option": (
        lambda c: c.objectives.clip.update(wait=1.0),
        r"the nearest is config\.objectives\.clip\.weight",
    ),
    "wrong type": (
        lambda c: setattr(c, "optim", ConfigDict(c.optim.to_dict() | {"lr": "fast"})),
        r"config\.optim\.lr='fast' must be a number of 0 or more \(peak learning rate\)\.$",
    ),
    "no such choice": (
        lambda c: c.optim.update(name="adam"),
        r"config\.optim\.name='adam' must be one of .* \(nearest: adamw\)",
    ),
    "missing path": (
        lambda c: c.data.train.update(more=config_lib.entry("data.train")),
        r"config\.data\.train\.more\.path must be given",
    ),
    "no objective": (
        lambda c: c.objectives.clip.update(weight=0.0),
        "no objective with a weight above 0",
    ),
    "no data": (lambda c: setattr(c.data, "train", {}), r"config\.data\.train has no source"),
    "source without a share": (
        lambda c: c.data.train.pairs.update(weight=0.0),
        r"config\.data\.train\.pairs\.weight=0\.0 must be a number above 0",
    ),
    "block of less than nothing": (
        lambda c: c.data.train.pairs.update(block=-1),
        r"block=-1 must be an integer of 1 or more, or 0",
    ),
    "heads": (lambda c: c.model.image.update(heads=7), r"heads=7 does not divide width=64"),
    "patch": (lambda c: c.model.image.update(patch_size=64), "larger than the image"),
    "head none": (lambda c: c.model.image.update(head="none"), r"width=64 equal to .*embed_dim=32"),
    "best of nothing": (
        lambda c: c.checkpoint.update(best="hold/R@1"),
        r"best='hold/R@1' should be NAME/METRIC of an evaluation \(there is: held\)",
    ),
    "best at no checkpoint": (
        lambda c: (c.checkpoint.update(best="held/R@1", every=10), c.evals.held.update(every=4)),
        r"every=4 does not meet config\.checkpoint\.every=10",
    ),
    "unknown kind of part": (
        lambda c: c.model.update(audio=config_lib.entry("model", kind="vitt")),
        r"config\.model\.audio\.kind='vitt': choose one of .* \(nearest: vit\)\.",
    ),
    "part of no kind": (
        lambda c: c.model.update(vit=config_lib.entry("model")),
        r"config\.model\.vit\.kind must be given: What the part is\.",
    ),
    "part without a key": (
        lambda c: c.model.update(photo=ConfigDict({"kind": "vit"})),
        r"config\.model\.photo\.rms_norm is missing: start the part from entry\('model', kind=",
    ),
    "key of another kind": (
        lambda c: c.model.image.update(vocab_size=9),
        r"config\.model\.image\.vocab_size: there is no such key",
    ),
    **{
        f"part called {name}": (
            lambda c, name=name: c.model.update({name: config_lib.entry("model", kind="scale")}),
            rf"config\.model\.{name}: a part cannot be called '{name}': rename it\.",
        )
        for name in ("a-b", "a/b", "init", "parts")
    },
    "no part": (
        lambda c: setattr(c, "model", models.zoo.default()),
        r"config\.model has no part: ",
    ),
    **{
        f"joint of {of}": (
            lambda c, of=of: c.model.update(joint=config_lib.entry("model", kind="concat", of=of)),
            rf"config\.model\.joint.*{said}",
        )
        for of, said in (
            (("image", "txt"), "the model has no part 'txt'"),
            (("embed_dim", "text"), "the model has no part 'embed_dim'"),
            (("image",), "must be a tuple of 2 strings"),
            (("text", "image"), "the second part should be a text tower"),
            (("logit", "text"), "reads 'logit/tokens', which no part of the model gives"),
        )
    },
    "joint of itself": (
        lambda c: c.model.update(
            joint=config_lib.entry("model", kind="concat", of=("joint", "text"))
        ),
        r"config\.model has parts that read each other or themselves \(joint\)",
    ),
    "long text": (lambda c: c.data.update(text_lengths=(99,)), "99 is above"),
    "trimmed padding": (
        lambda c: (c.data.update(text_lengths=(8,)), c.model.text.update(causal=False)),
        r"text_lengths must be \(\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_config_is_one_sentence(config, name):
    change, message = BAD[name]
    with config.unlocked():
        change(config)
    with pytest.raises(UserError, match=message):
        config_check.validate(config)


def test_batch_that_does_not_divide_the_mesh(config):
    sizes = {"data": 4, "fsdp": 2, "tensor": 1}
    config_check.validate_on_mesh(config, sizes)
    config.batch_size = 100
    with pytest.raises(UserError, match=r"batch_size=100 does not divide over 8.*nearest .* 96"):
        config_check.validate_on_mesh(config, sizes)
    config.update(batch_size=128)
    config.optim.microbatches = 32
    with pytest.raises(UserError, match=r"and 32 microbatches; the nearest valid value is 256"):
        config_check.validate_on_mesh(config, sizes)


def test_a_resnet_starts_from_weights(config):
    config.model = models.zoo.config("RN50")
    with pytest.raises(UserError, match=r"cannot be trained from scratch.*config\.init_from"):
        config_check.validate(config)
    config.init_from.source = "RN50.pt"
    config_check.validate(config)
    config.model.image.heads = 48
    with pytest.raises(UserError, match="heads=48 does not divide the resnet's 32 x width=64"):
        config_check.validate(config)
    config.model.image.update(size=100, heads=32)
    with pytest.raises(UserError, match="size=100 that 32 divides"):
        config_check.validate(config)


def test_tensor_that_splits_a_head(config):
    with pytest.raises(UserError, match=r"config\.mesh\.tensor=8 does not divide .*heads=4"):
        config_check.validate_on_mesh(config, {"data": 1, "fsdp": 1, "tensor": 8})


def test_resume_may_change_some_keys_only(config):
    other = config_lib.from_json(config_lib.to_json(config))
    other.data.workers, other.log.every, other.mesh.fsdp = 7, 7, 2
    other.evals.more = config_lib.entry("evals", path="more.csv", kind="loss")
    config_check.validate_resume(config, other, "runs/a")
    other.data.train.pairs.weight = 2.0
    with pytest.raises(UserError, match=r"runs/a was started with config\.data\.train\.pairs\.wei"):
        config_check.validate_resume(config, other, "runs/a", adjust=True)


def test_resume_may_adjust_some_keys_if_told_to(config):
    other = config_lib.from_json(config_lib.to_json(config))
    other.total_steps, other.optim.lr = config.total_steps + 5, 1e-5
    with pytest.raises(UserError, match=r"started with config\.optim\.lr=.*add --adjust to resume"):
        config_check.validate_resume(config, other, "runs/a")
    assert config_check.validate_resume(config, other, "runs/a", adjust=True) == {
        "optim.lr": (config.optim.lr, 1e-5),
        "total_steps": (config.total_steps, config.total_steps + 5),
    }


@pytest.mark.parametrize("steps", ["10", "15:10", "0:3", "a:b", "3:"])
def test_steps_to_profile_are_first_and_end(config, steps):
    config.profile.steps = steps
    with pytest.raises(UserError, match=r"config\.profile\.steps=.* should be FIRST:END .*10:15"):
        config_check.validate(config)


def test_a_config_is_made_without_starting_the_devices(monkeypatch):
    """Else the processes of a job, which read their config first, could not meet any more."""
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("devices were asked for"))
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    assert config_lib.smoke(config).model.dtype == "auto"
