"""A teacher's embeddings beside the data: which row is whose, and what they are refused for."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import Address, BadRecord, Record, open_source, train_batches, train_order
from mmjax.data.draw import Draw
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.models import parts
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules
from mmjax.schema import TRAINING_ONLY
from mmjax.teachers import CachedTeacher, OnlineTeacher, cached
from mmjax.teachers.source import Fingerprint, fingerprint

D, VIEWS, SIZES = 6, 3, {"one": 5, "two": 7}


def config(**changes):
    result = config_lib.default()
    result.data.copies = VIEWS
    for name, size in SIZES.items():
        result.data.train[name] = config_lib.entry("data.train", path=f"generated:{size}")
    result.update_from_flattened_dict(changes)
    return result


def record_of(settings):
    sources = [open_source(spec, name) for name, spec in sorted(settings.data.train.items())]
    return cached.data_record(settings, sources)


def embeddings():
    rows = VIEWS * sum(SIZES.values())
    return {
        name: np.random.default_rng(i).normal(size=(rows, D)).astype(np.float32)
        for i, name in enumerate(("image/embed", "text/embed"))
    }


@pytest.fixture
def folder(tmp_path):
    """As `mmjax embed` writes it, ten rows a shard."""
    for name, embeds in embeddings().items():
        for shard, start in enumerate(range(0, len(embeds), 10)):
            part = cached.bits(embeds[start : start + 10], "bfloat16")
            np.save(cached.shard_path(tmp_path, name, shard), part)
    record = {
        "teacher": "0123456789abcdef", "source": "runs/big", "dtype": "bfloat16",
        "outputs": {"image/embed": D, "text/embed": D},
        "scalars": {"logit_scale": 3.0, "logit_bias": -2.0},
        "shard_rows": 10, "data": record_of(config()),
    }  # fmt: skip
    (tmp_path / cached.RECORD).write_text(json.dumps(record))
    return str(tmp_path)


def opened(folder):
    return cached.open_cached(folder, "big", "bfloat16")


def read(modality, *addresses):
    """The columns of records at (source, epoch, index)."""
    record = Record("a", {})
    return modality.batch([modality.read(record, Draw(0, Address(*a), record)) for a in addresses])


def test_copies_repeat_modulo_the_number_stored(folder):
    """Row copy · records + number over both sources, in order of names; epoch modulo copies."""
    settings = config(batch_size=12)
    sources = [open_source(spec, name) for name, spec in sorted(settings.data.train.items())]
    order = train_order(sources, settings)
    batches = train_batches(sources, settings, [opened(folder)], rows=np.arange(12), start_step=0)
    for step, batch in enumerate(itertools.islice(batches, 5)):  # about five epochs
        at = [order(12 * step + row) for row in range(12)]
        rows = [(a.epoch % VIEWS) * 12 + (0, 5)[a.source] + a.index for a in at]
        for name, embeds in embeddings().items():
            expected = embeds[rows].astype(jax.numpy.bfloat16)
            np.testing.assert_array_equal(batch[f"teacher/big/{name}"], expected)
    assert max(a.epoch for a in at) > VIEWS
    batches.close()


def test_a_record_that_was_of_no_use_to_the_teacher_is_bad(folder):
    """Its rows are NaN, and another record stands in, as it does where the teacher runs."""
    shard = cached.shard_path(folder, "text_embed", 0)
    stored = np.load(shard)
    stored[3] = cached.bits(np.full(D, np.nan, np.float32), "bfloat16")
    np.save(shard, stored)
    read(opened(folder), (0, 0, 2), (0, 0, 4))
    with pytest.raises(BadRecord, match=r"a was of no use to the teacher in"):
        read(opened(folder), (0, 0, 3))


def test_cached_and_online_are_the_same_bits(folder):
    """Both round to bfloat16, one before it writes: what objectives read is equal to the bit."""
    embeds = {name: x[:5] for name, x in embeddings().items()}
    batch = read(opened(folder), *((0, 0, index) for index in range(5)))
    names = ("image/embed", "text/embed", "logit/scale", "logit/bias")
    stored = CachedTeacher("big", "bfloat16", opened(folder))
    params = {"logit_scale": np.float32(3.0), "logit_bias": np.float32(-2.0)}
    ours = stored.outputs(params, batch, None, names, run=None)
    model = models.from_config(tiny.config().model)
    online = OnlineTeacher("big", "bfloat16", Weights("big", tiny.config(), None), model)
    made = {n: jax.numpy.asarray(x) for n, x in embeds.items()}
    made |= {"logit/scale": np.exp(3.0), "logit/bias": -2.0}
    theirs = online.outputs(params, {}, None, names, run=lambda *_: made)
    for name in names[:2]:
        assert ours[name].dtype == theirs[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert (np.asarray(ours[name]) != embeds[name]).any()
    assert float(ours["logit/scale"]) == pytest.approx(np.exp(3.0), rel=1e-6)
    assert float(ours["logit/bias"]) == -2.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, r"config\.seed=0, not 1: run mmjax embed"),
        ({"data.augment.flip": 0.1}, r"data\.augment=.*flip.*run mmjax embed"),
        ({"data.train.two.path": "generated:8"}, r"records in data\.train\.two \(7 then, 8 now\)"),
        ({"data.copies": 4}, r"holds 3 copies .*data\.copies=4: set it to 3"),
        ({"data.copies": 0}, r"holds 3 copies .*data\.copies=0: set it to 3"),
    ],
)
def test_other_data_and_views_are_refused(folder, changes, said):
    opened(folder).check_data(record_of(config()), VIEWS)
    wrong = config(**changes)
    with pytest.raises(UserError, match=said):
        opened(folder).check_data(record_of(wrong), wrong.data.copies)


def test_another_order_of_the_records_is_refused(folder):
    settings, turned = config(), config()
    sources = [open_source(spec, name) for name, spec in sorted(settings.data.train.items())]

    class Turned:
        def __len__(self):
            return len(sources[1])

        def captions(self, index):
            return sources[1].captions(len(self) - 1 - index)

    record = cached.data_record(turned, [sources[0], Turned()])
    with pytest.raises(UserError, match=r"other records in data\.train\.two \(7 then, 7 now\)"):
        opened(folder).check_data(record, VIEWS)
    renamed = config()
    renamed.data.train = {"one": settings.data.train.one, "three": settings.data.train.two}
    with pytest.raises(UserError, match=r"sources \['one', 'two'\], not \['one', 'three'\]"):
        opened(folder).check_data(record_of(renamed), VIEWS)


def test_a_teacher_is_known_by_every_bit_of_it():
    settings = tiny.config()
    params = tiny.params(models.from_config(settings.model))
    mark = fingerprint(settings, params)
    assert mark == fingerprint(settings, params)
    mesh = mesh_lib.make_mesh(2, 2, 2)
    spread = jax.device_put(params, rules.param_shardings(params, mesh))
    assert fingerprint(settings, spread) == mark
    params["logit_scale"] = np.nextafter(params["logit_scale"], np.float32(9))
    assert fingerprint(settings, params) != mark
    params = tiny.params(models.from_config(settings.model))
    settings.model.image.mean = (0.5, 0.5, 0.5)
    assert fingerprint(settings, params) != mark


def test_records_of_version_0_know_their_teacher():
    settings = tiny.config()
    mark = fingerprint(settings, tiny.params(models.from_config(settings.model)))
    assert mark.matches("bf441aa0a07af70f")  # what mmjax wrote then
    assert not mark.matches("bf441aa0a07af70e")
    params = {"x": np.ones(3)}
    settings.model.image = config_lib.entry("model", kind="resnet", mean=(0.5, 0.5, 0.5))
    assert fingerprint(settings, params).matches("330b46f26689e286")
    settings.model.image = config_lib.entry("model", kind="regions")
    assert fingerprint(settings, params).matches("856110751f15110c")


def other(key, value):
    """Another value of a key."""
    if key.choices:
        return next(choice for choice in key.choices if choice != value)
    if key.type is tuple:
        return (*value, 1)
    return "other" if key.type is str else (not value if key.type is bool else (value or 0) + 1)


def test_every_key_that_changes_a_teacher_changes_its_mark():
    """Of towers and fusions of every kind; the parameters are the same each time."""
    for kinds in (
        {},
        {"image": "resnet"},
        {"image": "regions", "fusion": "concat"},
    ):
        settings = tiny.config()
        for name, kind in kinds.items():
            settings.model[name] = config_lib.entry("model", kind=kind)
        whole = fingerprint(settings, {"x": np.ones(3)}).mark
        for path, key, value in list(parts.of_model(settings.model)):
            if key.name == "kind":
                continue  # whose keys are others
            changed = ConfigDict({"model": settings.model.to_dict()})
            changed.model.update_from_flattened_dict({path: other(key, value)})
            same = fingerprint(changed, {"x": np.ones(3)}).mark == whole
            assert same == (key.resumable or TRAINING_ONLY in key.marks), path


def test_another_teacher_and_an_unfinished_folder_are_refused(folder, tmp_path):
    embeds = opened(folder)
    embeds.check_teacher(Fingerprint("1:ab", "0123456789abcdef"), "runs/big")  # of version 0
    embeds.check_teacher(Fingerprint("0123456789abcdef", "ab"), "runs/big")
    with pytest.raises(
        UserError, match=r"of another teacher \(runs/big, 0123.*source='runs/b' \(f"
    ):
        embeds.check_teacher(Fingerprint("fedcba9876543210", ""), "runs/b")
    with pytest.raises(UserError, match=r"dtype='float32'.* are bfloat16"):
        cached.open_cached(folder, "big", "float32")
    (tmp_path / cached.RECORD).rename(tmp_path / "teacher.part")
    with pytest.raises(UserError, match="is missing; run the same mmjax embed again"):
        opened(folder)
    with pytest.raises(UserError, match="is missing; run mmjax embed first"):
        opened(str(tmp_path / "elsewhere"))
    lost = dataclasses.replace(embeds, folder=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"00000\.npy cannot be read .*run mmjax embed again"):
        read(lost, (0, 0, 0))
