"""Images in their own shape: the resize rule, crops that keep it, batches by sequence length."""

import itertools

import numpy as np
import pytest
import tiny
from pictures import encode, picture
from PIL import Image

from mmjax import data
from mmjax.config import entry
from mmjax.config_check import validate, validate_on_mesh
from mmjax.data.augment import Augment
from mmjax.data.buckets import Bucket, Buckets, buckets_of
from mmjax.data.draw import Draw
from mmjax.data.modalities import Naflex
from mmjax.data.modalities.naflex import fitting
from mmjax.data.order import Address
from mmjax.data.records import Record
from mmjax.errors import UserError
from mmjax.models.parts import part

LENGTHS = (128, 256, 576, 784, 1024)
OWN = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), crop_aspect="image")


def config(**keys):
    """A run on pictures of several shapes, of a tower with patches of 4 pixels."""
    result = tiny.config()
    result.model.image = part(
        "naflex", size=16, patch_size=4, patches=9, width=32, depth=1, heads=4, mlp_dim=64
    )
    shapes = ((40, 20), (20, 40), (16, 64), (30, 30), (64, 17), (8, 8), (25, 31))
    records = [{"image": picture(n, *shapes[n % 7]), "text": f"number {n}"} for n in range(21)]
    result.data.train.shapes = entry("data.train", path=data.from_records(records, "shapes"))
    result.data.augment.crop_aspect = "image"
    result.data.update({"image_lengths": (4, 9, 16), "batch_multiple": 4, **keys})
    result.batch_size, result.seed = 16, 3
    return result


def read(run, **options):
    (modality,) = data.modalities.build(
        {"image": ("naflex", run.model.image)}, data=run.data
    ).values()
    sources = data.open_sources(run.data.train)
    return data.train_batches(sources, run, [modality], **options)


def test_sizes_are_those_of_transformers():
    from transformers.models.siglip2 import image_processing_pil_siglip2 as theirs

    rng = np.random.default_rng(0)
    shapes = np.exp(rng.uniform(0, np.log(5000), (120, 2))).astype(int)
    for height, width in [*shapes.tolist(), (1, 1), (1, 4000), (7, 9000), (256, 256)]:
        for patch, most in ((16, 256), (16, 1024), (14, 128), (8, 1)):
            found = fitting(height, width, patch, most)
            expected = theirs.get_image_size_for_max_num_patches(height, width, patch, most)
            assert found == expected, (height, width, patch, most)
            assert found[0] * found[1] <= most * patch**2


@pytest.mark.parametrize("shape", [(48, 96), (160, 40), (33, 35)])
def test_training_shows_what_evaluation_does_where_nothing_is_random(shape):
    modality = Naflex("image", 8, 32, augment=OWN)
    record = Record("it", {"image": encode(picture(1, *shape))})
    draw = Draw(0, Address(0, 0, 0), record)
    (ours, mask, grid), (exact, other, same) = (
        modality.read(record, draw),
        modality.read(record, None),
    )
    np.testing.assert_array_equal(mask, other)
    np.testing.assert_array_equal(grid, same)
    assert np.abs(ours[mask].astype(int) - exact[mask]).mean() < 3
    assert ours[mask].std() > 20
    assert not ours[~mask].any()


def test_random_crops_have_about_the_shape_of_the_image():
    modality = Naflex("image", 8, 64, augment=Augment((0.3, 1.0), (0.9, 1.1), "image", rotate=20.0))
    record = Record("it", {"image": picture(1, 50, 200)})
    grids = [modality.read(record, Draw(0, Address(0, n, 0), record))[2] for n in range(40)]
    ratios = np.array([columns / rows for rows, columns in grids])
    assert 3 < np.median(ratios) < 5.2
    assert ratios.min() > 2
    assert len(set(ratios)) > 1


def test_a_turn_does_not_skew_what_keeps_its_shape():
    """A disc in a wide image is a disc after any turn, and no ellipse."""
    y, x = np.mgrid[:64, :256]
    disc = np.uint8(255 * ((y - 32) ** 2 + (x - 128) ** 2 > 24**2))[..., None].repeat(3, axis=2)
    augment = Augment((1.0, 1.0), (1.0, 1.0), "image", rotate=90.0)
    modality, record = Naflex("image", 4, 1024, augment=augment), Record("it", {"image": disc})
    for number in range(5):
        patches, _, (rows, columns) = modality.read(record, Draw(0, Address(0, number, 0), record))
        whole = patches[: rows * columns].reshape(rows, columns, 4, 4, 3).swapaxes(1, 2)
        shown = whole.reshape(4 * rows, 4 * columns, 3)[..., 0] < 128
        high, wide = (shown.any(axis=axis).sum() for axis in (1, 0))
        assert high > 40
        assert abs(high - wide) <= 2


def test_a_missing_image_is_one_black_patch():
    modality = Naflex("image", 4, 6)
    batch = modality.batch([None, modality.shown(Image.new("RGB", (8, 8), "white"))])
    assert batch["image_mask"].sum(axis=1).tolist() == [1, 4]
    assert batch["image_shape"].tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("shares", [(), (3, 1, 1, 1, 2), (0.5, 0.2, 0.1, 0.1, 0.1)])
def test_each_cycle_has_exact_shares_in_an_order_of_its_own(shares):
    run = config(image_lengths=LENGTHS, length_shares=shares, token_budget=16_384)
    run.batch_size = 128
    buckets = buckets_of(run)
    assert set(buckets.kinds) == {
        Bucket(1024, 16), Bucket(784, 20), Bucket(576, 28), Bucket(256, 64), Bucket(128, 128),
    }  # fmt: skip
    cycle = len(buckets.cycle)
    steps = [buckets(step) for step in range(40 * cycle)]
    ends = [start + bucket.size for start, bucket in steps]
    assert [start for start, _ in steps] == [0, *ends[:-1]]
    wanted = np.array(shares or (1,) * 5) / sum(shares or (1,) * 5) * cycle
    orders = set()
    for first in range(0, len(steps), cycle):
        lengths = [bucket.length for _, bucket in steps[first : first + cycle]]
        np.testing.assert_allclose([lengths.count(n) for n in LENGTHS], wanted)
        orders.add(tuple(lengths))
    assert len(orders) > 20
    other = Buckets(buckets.cycle, 4)
    assert [other(n) for n in range(60)] != steps[:60]


def test_any_number_of_hosts_sees_the_same_before_and_after_a_restart_in_mid_cycle():
    run = config(token_budget=200, batch_multiple=8)
    run.batch_size = 32
    sizes = {bucket.size for bucket in buckets_of(run).kinds}
    assert sizes == {32, 16, 8}

    def take(start, count, host=0, hosts=1):
        rows = {size: np.array_split(np.arange(size), hosts)[host] for size in sizes}
        return list(itertools.islice(read(run, rows=rows, start_step=start), count))

    whole = take(0, 7)
    assert len({batch["image"].shape for batch in whole[:3]}) == 3
    seen = np.concatenate([batch["group"] for batch in whole])
    assert all(len(set(seen[n : n + 21])) == 21 for n in range(0, len(seen) - 21, 21))
    for before, after in ((1, 8), (2, 4), (4, 1), (8, 2)):
        for hosts, start, count in ((before, 0, 4), (after, 4, 3)):
            parts = [take(start, count, host, hosts) for host in range(hosts)]
            for step, of_hosts in enumerate(zip(*parts, strict=True), start):
                for name, column in whole[step].items():
                    found = np.concatenate([part[name] for part in of_hosts])
                    np.testing.assert_array_equal(found, column, err_msg=f"{step} {name}")


def test_a_mixture_is_read_at_the_length_of_the_step():
    """Where one source has no images, their place is blank in batches of every length."""
    run = config()
    run.data.train.words = entry("data.train", kind="text", path=__file__)
    inputs = {"image": ("naflex", run.model.image)}
    built = data.modalities.build(inputs, data=run.data)
    mixed = data.mixtures.in_mixture(built, run.data.train, inputs)
    sources = data.open_sources(run.data.train)
    batches = data.train_batches(sources, run, mixed, rows=np.arange(16), start_step=0)
    for step, batch in enumerate(itertools.islice(batches, 3)):
        length = buckets_of(run)(step)[1].length
        assert batch["image_mask"].shape == (16, length)
        assert batch["image_mask"].sum(axis=1)[~batch["image_there"]].tolist() == [1] * 8


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_budget": 60}, "no batch holds sequences of 16: token_budget=60 is less than 4 of"),
        ({"length_shares": (1.0, 2.0)}, r"=\(1.0, 2.0\) should have a number for each"),
        ({"text_lengths": (4,)}, "both change the shape of a batch"),
        ({"image_lengths": (), "token_budget": 60}, "token_budget=60 is of config.data.image_l"),
        ({"image_lengths": (4, 8)}, "patches=9: no batch of training is so long: add it to"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_one_sentence(change, expected):
    with pytest.raises(UserError, match=expected):
        validate(config(**change))


def test_other_towers_and_square_crops_are_refused():
    run = config()
    validate(run)
    run.data.augment.crop_aspect = "square"
    with pytest.raises(UserError, match=r"keeps the shape of images.*crop_aspect='image'"):
        validate(run)
    plain = tiny.config()
    plain.data.train.shapes = run.data.train.shapes
    plain.data.image_lengths = (4, 9)
    with pytest.raises(UserError, match="are of an image tower of kind 'naflex', and"):
        validate(plain)


def test_a_size_that_does_not_divide_over_the_devices_names_the_multiple():
    run = config(token_budget=100)
    run.optim.microbatches = 2
    with pytest.raises(UserError, match="batches of 4 at 16 patches, which do not divide over 4"):
        validate_on_mesh(run, {"data": 4, "fsdp": 1, "tensor": 1})
