"""Crops for self-distillation: functions of the example's draw, from one decode, beside an image
that they do not change."""

import jax
import numpy as np
import pytest
import tiny
from pictures import encode, picture

from mmjax import config as config_lib
from mmjax import data
from mmjax.data import augment
from mmjax.data.draw import Draw
from mmjax.data.modalities import Crops, GlobalCrop, LocalCrops
from mmjax.data.order import Address
from mmjax.data.records import Record
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.assemble import assemble, readers


def config(*names):
    result = tiny.config(ema=0.9)
    result.model.image.update(size=16, patch_size=4, mask_token=True)
    result.objectives = {name: config_lib.entry("objectives", prototypes=8) for name in names}
    result.data.crops.update(count=3, size=8)
    records = [{"image": picture(n, 60, 70), "text": f"number {n}"} for n in range(10)]
    result.data.train.shapes = config_lib.entry(
        "data.train", path=data.from_records(records, "shapes")
    )
    return result


def batches(run, step, count=1):
    images = [m for m in readers(run, (), lambda: None) if "text" not in m.columns]
    run = data.train_batches(
        data.open_sources(run.data.train), run, images, rows=np.arange(16), start_step=step
    )
    found = [next(run) for _ in range(count)]
    run.close()
    return found


@pytest.fixture(autouse=True)
def without_tokenizer(monkeypatch):
    monkeypatch.setattr(data.modalities.Text, "of", classmethod(lambda cls, name, *_: cls(
        name, 8, None, ())))  # fmt: skip


def test_crops_follow_seed_and_position_and_change_no_other_column():
    run = config("self_distill", "masked_distill")
    first, second = batches(run, 4, 2)
    (again,), (plain,) = batches(run, 5), batches(config(), 5)
    assert second["image_local"].shape == (16, 3, 8, 8, 3)
    assert second["image_global"].shape == (16, 16, 16, 3)
    for name in ("image", "image_local", "image_global"):
        np.testing.assert_array_equal(second[name], again[name])
        assert (first[name] != second[name]).any()
    np.testing.assert_array_equal(second["image"], plain["image"])
    assert not plain.keys() & {"image_local", "image_global"}
    run.seed = 1
    assert (batches(run, 5)[0]["image_local"] != second["image_local"]).any()
    local = second["image_local"].reshape(16, 3, -1)
    assert (local[:, 0] != local[:, 1]).any(axis=1).all()  # of one example, each another
    assert {m.name for m in readers(config("masked_distill"), ()) if hasattr(m, "crops")} == {
        "image_global"
    }


def test_the_columns_of_crops_are_in_the_abstract_batch():
    run = config("self_distill")
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assert assemble(run, mesh).batch["image_local"].shape == (16, 3, 8, 8, 3)
        run.data.crops.size = 10
        with pytest.raises(UserError, match=r"crops\.size=10 does not divide .*: set it to 8\."):
            assemble(run, mesh)


def test_areas_colours_and_blur():
    """Of a picture whose colours say where a pixel is: red grows to the right, green downwards."""
    side, n = 256, 40
    ramp = np.zeros((side, side, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(side), np.arange(side)[:, None]
    still = Crops(count=n, size=32, flip=0.0, colours=0.0, grayscale=0.0, local_blur=0.0)

    def shown(crops, image=ramp):
        record = Record("it", {"image": image})
        draw = Draw(0, Address(0, 0, 0), record)
        return LocalCrops("image_local", 32, crops).read(record, draw)

    plain = shown(still).astype(float)
    width = (plain[:, 16, -1, 0] - plain[:, 16, 0, 0]) * 32 / 31 / side
    height = (plain[:, -1, 16, 1] - plain[:, 0, 16, 1]) * 32 / 31 / side
    assert (width * height > 0.04).all()
    assert (width * height < 0.42).all()
    assert (width * height).std() > 0.05
    flipped = shown(Crops(count=n, size=32, flip=1.0, colours=0.0, grayscale=0.0, local_blur=0.0))
    assert (flipped[:, 16, 0, 0] > flipped[:, 16, -1, 0]).all()
    gray = shown(Crops(count=n, size=32, colours=0.0, grayscale=1.0, local_blur=0.0))
    assert (np.ptp(gray, axis=3) <= 1).all()
    flat = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    changed = shown(Crops(count=n, size=32, grayscale=0.0, local_blur=0.0), flat)
    same = (np.abs(changed.astype(int) - flat[0, 0]) <= 1).all(axis=(1, 2, 3)).mean()
    assert 0.02 < same < 0.45  # 0.2 keep their colours
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    record = Record("it", {"image": noise})
    sharp, soft = (
        GlobalCrop("g", 64, Crops(global_blur=p, colours=0.0, grayscale=0.0)).read(record, None)
        for p in (0.0, 1.0)
    )
    assert soft.std() < 0.8 * sharp.std()


def test_a_jpeg_is_decoded_once_for_all_crops_that_want_it_alike(monkeypatch):
    ways, decode = [], augment.decode
    monkeypatch.setattr(augment, "decode", lambda *of: ways.append(of[1:]) or decode(*of))
    record = Record("it", {"image": encode(picture(1, 400, 500), "JPEG")})
    draw = Draw(0, Address(0, 0, 0), record)
    image = data.modalities.Image("image", 64)
    found = [m.read(record, draw) for m in (
        image, GlobalCrop("g", 64), LocalCrops("l", 32, Crops(count=20, size=32)))]  # fmt: skip
    assert len(ways) == len(set(ways)) <= 4
    alone = Draw(0, Address(0, 0, 0), record)
    np.testing.assert_array_equal(image.read(record, alone), found[0])
