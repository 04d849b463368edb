"""Boxes: the layouts that hold them agree, they move with the crop, and a text gives them back."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from pictures import encode, picture, write_tar

from mmjax import config as config_lib
from mmjax import data
from mmjax.data import BadRecord, Record, from_records, modalities, open_source
from mmjax.data.augment import Augment, Crop
from mmjax.data.boxes import (
    BINS,
    VISIBLE,
    Boxes,
    in_image,
    in_pixels,
    overlap,
    parse_boxes,
    read_box,
    seen_in,
    spell,
)
from mmjax.data.draw import Draw
from mmjax.data.images import eval_transform, eval_view, open_image
from mmjax.data.modalities.region_texts import RegionTexts, given, refer
from mmjax.data.order import Address
from mmjax.data.tokenize import train_tokenizer
from mmjax.datatools import convert
from mmjax.errors import UserError

HEIGHT, WIDTH = 40, 48
REGIONS = [
    [("a cat", (0, 0, 12, 20)), ("the left ear", (2, 1, 6, 5))],
    [("a dog", (24, 10, 48, 40))],
]
CAPTIONS = ["a cat sits", "a dog runs"]
IMAGES = [encode(picture(n, HEIGHT, WIDTH), "JPEG") for n in range(len(REGIONS))]
SIDES = (WIDTH, HEIGHT, WIDTH, HEIGHT)


def corner(box):
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def files(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, IMAGES, strict=True):
        (folder / name).write_bytes(image)


def tar(folder, regions_of):
    members = []
    for n, regions in enumerate(REGIONS):
        about = {"caption": "; ".join(text for text, _ in regions), "regions": regions_of(regions)}
        members += [(f"{n}.jpg", IMAGES[n]), (f"{n}.txt", CAPTIONS[n].encode()),
                    (f"{n}.json", json.dumps(about).encode())]  # fmt: skip
    write_tar(folder / "0.tar", members)
    return {"path": str(folder / "0.tar"), "boxes": "json:regions"}


def tar_shares(folder):
    return tar(folder, lambda regions: [
        {"text": text, "box": list(np.divide(box, SIDES))} for text, box in regions])  # fmt: skip


def tar_pixels(folder):
    return tar(folder, lambda regions: [
        {"caption": [text], "bbox": corner(box)} for text, box in regions])  # fmt: skip


def tar_grit(folder):
    def regions_of(regions):
        caption = "; ".join(text for text, _ in regions)
        starts = [caption.index(text) for text, _ in regions]
        return [[start, start + len(text), *np.divide(box, SIDES), 0.9]
                for start, (text, box) in zip(starts, regions, strict=True)]  # fmt: skip

    return tar(folder, regions_of)


def coco_files(folder, images):
    files(folder / "train2014", images)
    listed = [{"id": n + 5, "file_name": name} for n, name in enumerate(images)]
    names = sorted({text for regions in REGIONS for text, _ in regions})
    instances = {
        "images": listed,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": 10 * n + m, "image_id": n + 5, "category_id": names.index(text),
             "bbox": corner(box)}
            for n, regions in enumerate(REGIONS) for m, (text, box) in enumerate(regions)
        ],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(instances))
    captions = {
        "images": listed,
        "annotations": [{"image_id": n + 5, "caption": text} for n, text in enumerate(CAPTIONS)],
    }
    path = folder / "annotations" / "captions_train2014.json"
    path.write_text(json.dumps(captions))
    return path


def coco(folder):
    path = coco_files(folder, ["a.jpg", "b.jpg"])
    return {"path": str(path), "boxes": "instances.json"}


def coco_instances(folder):
    path = coco_files(folder, ["a.jpg", "b.jpg"]).with_name("instances.json")
    return {"path": str(path), "boxes": "instances.json", "image": "../train2014"}


def refcoco(folder):
    coco_files(folder, ["COCO_train2014_1.jpg", "COCO_train2014_2.jpg"])
    references = [
        {"split": "train", "image_id": n + 5, "ann_id": 10 * n + m, "ref_id": m,
         "file_name": "COCO_train2014_1_9.jpg", "sentences": [{"raw": text, "sent": text.lower()}]}
        for n, regions in enumerate(REGIONS) for m, (text, _) in enumerate(regions)
    ]  # fmt: skip
    references.append({**references[0], "split": "testA", "sentences": [{"sent": "other"}]})
    path = folder / "annotations" / "refs(unc).p"
    path.write_bytes(pickle.dumps(references, protocol=2))
    return {"path": str(path)}


def visual_genome(folder):
    files(folder / "VG_100K", ["1.jpg", "2.jpg"])
    (folder / "VG_100K" / "2.jpg").rename(folder / "2.jpg")
    (folder / "VG_100K_2").mkdir()
    (folder / "2.jpg").rename(folder / "VG_100K_2" / "2.jpg")
    content = [
        {"id": n + 1, "regions": [
            {"region_id": m, "image_id": n + 1, "phrase": text,
             **dict(zip(("x", "y", "width", "height"), corner(box), strict=True))}
            for m, (text, box) in enumerate([*regions, (" ", (0, 0, 1, 1))])]}
        for n, regions in enumerate(REGIONS)
    ]  # fmt: skip
    (folder / "region_descriptions.json").write_text(json.dumps(content))
    return {"path": str(folder / "region_descriptions.json")}


def in_memory(folder):
    del folder
    return {"path": from_records([
        {"image": image, "text": caption,
         "boxes": [{"text": text, "bbox": corner(box)} for text, box in regions]}
        for image, caption, regions in zip(IMAGES, CAPTIONS, REGIONS, strict=True)
    ])}  # fmt: skip


@pytest.mark.parametrize("write", [tar_shares, tar_pixels, tar_grit, coco, coco_instances, refcoco,
                                   visual_genome, in_memory])  # fmt: skip
def test_layouts_agree(tmp_path, write):
    source = open_source(write(tmp_path))
    assert len(source) == len(REGIONS)
    for n in range(len(source)):
        record = source[n]
        boxes = record.parts["boxes"]
        assert record.parts["image"] == IMAGES[n]
        assert boxes.texts == tuple(text for text, _ in REGIONS[n])
        truth = [box for _, box in REGIONS[n]]
        np.testing.assert_allclose(in_pixels(boxes, HEIGHT, WIDTH), truth, atol=1e-9)
        has_captions = write not in (coco_instances, refcoco, visual_genome)
        assert record.captions == ((CAPTIONS[n],) if has_captions else ())
        again = parse_boxes(json.loads(json.dumps(boxes.to_json())))
        assert (again.texts, again.shares) == (boxes.texts, boxes.shares)
        np.testing.assert_allclose(again.boxes, boxes.boxes)
    if write is visual_genome:
        assert source.account.unread["regions without a text"] == 2


def test_splits_of_refcoco_and_what_is_no_reference(tmp_path):
    spec = refcoco(tmp_path)
    assert [r.parts["boxes"].texts for r in open_source({**spec, "split": "testA"})] == [("other",)]
    with pytest.raises(UserError, match=r"no split 'val', but testA, train"):
        open_source({**spec, "split": "val"})
    harmful = tmp_path / "annotations" / "refs(umd).p"
    harmful.write_bytes(pickle.dumps([Counter]))
    with pytest.raises(UserError, match=r"refs\(umd\)\.p is no pickle of plain values .*Counter"):
        open_source({"path": str(harmful)})


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([{"text": "a dog"}], "have no box for the text 'a dog'"),
        (
            [{"text": "a dog", "box": [0, 0, 1]}],
            r"have \[0, 0, 1\] as the box of 'a dog': write fo",
        ),
        (
            [{"text": "a", "box": [0, 0, 1, 1]}, {"text": "b", "bbox": [0, 0, 9, 9]}],
            "are in pixels",
        ),
        ({"a dog": [0, 0, 1, 1]}, "are no list of regions but dict"),
        (["a dog"], "region 'a dog' that is neither"),
    ],
)
def test_bad_regions_are_named(tmp_path, regions, said):
    with pytest.raises(ValueError, match=said):
        parse_boxes(regions)
    write_tar(tmp_path / "0.tar", [("0.jpg", IMAGES[0]), ("0.txt", b"good"),
              ("1.jpg", IMAGES[1]), ("1.txt", b"bad"),
              ("1.json", json.dumps({"regions": regions}).encode())])  # fmt: skip
    source = open_source({"path": str(tmp_path / "0.tar"), "boxes": "json:regions"})
    assert len(source) == 1
    (why,) = source.skipped
    assert why.startswith("with regions that ")
    with pytest.raises(UserError, match=r"records\[0\] has regions that"):
        from_records([{"image": IMAGES[0], "boxes": regions}])


def test_boxes_outside_of_the_image_are_bad_records(words):
    reader = modality(words)
    for box, what in (((30, 10, 70, 30), "outside of the image"), ((50, 0, 60, 9), "outside"),
                      ((9, 9, 9, 20), "without an area")):  # fmt: skip
        record = Record("0.tar: 7.jpg", {"image": IMAGES[0], "boxes": Boxes(("a dog",),
                        np.array([box], float))})  # fmt: skip
        with pytest.raises(
            BadRecord, match=rf"^0\.tar: 7\.jpg has a box {what}.*'a dog' at .*48 × 40"
        ):
            reader.read(record, None)
    # Less than a pixel or 1 % of the side beyond the edge is cut.
    found = in_pixels(Boxes(("a",), np.array([[-0.5, 0, 48.9, 40]])), 40, 48)
    np.testing.assert_array_equal(found, [[0, 0, 48, 40]])
    with pytest.raises(BadRecord, match="is without a caption and without regions"):
        reader.read(Record("x", {"image": IMAGES[0]}), Draw(0, Address(0, 0, 0), Record("x", {})))


@pytest.mark.parametrize("seed", range(8))
def test_boxes_move_with_the_crop(seed):
    """A red rectangle is where its box says, whatever the crop, flip, turn and size."""
    rng = np.random.default_rng(seed)
    image = np.full((180, 240, 3), 255, np.uint8)
    left, top = rng.integers(0, 120), rng.integers(0, 90)
    box = np.array([[left, top, left + rng.integers(40, 110), top + rng.integers(40, 80)]])
    image[box[0, 1] : box[0, 3], box[0, 0] : box[0, 2]] = (255, 0, 0)
    turn = 0.0 if seed < 6 else 15.0
    crop = Crop(image, rng, Augment(crop_scale=(0.3, 1.3), flip=0.5, rotate=turn, translate=0.1))
    shown = crop.at((128, 128))
    found, visible = seen_in(box, crop.to_image)
    red = (shown[..., 0] > 200) & (shown[..., 1] < 128)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    if not len(rows):
        assert visible[0] < 0.05
        return
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 128
    assert np.abs(found[0] - seen).max() < 1.6 / 128 + (0.01 if turn else 0)
    if not turn:
        part = np.prod(found[0, 2:] - found[0, :2]) * 128**2
        assert red.sum() == pytest.approx(part, rel=0.06)
        inside = in_image(found, crop.to_image)
        area = np.prod(inside[0, 2:] - inside[0, :2])
        assert area == pytest.approx(visible[0] * np.prod(box[0, 2:] - box[0, :2]))


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_boxes_move_with_the_resize_of_evaluation(resize):
    image = np.full((90, 160, 3), 255, np.uint8)
    image[20:70, 10:60] = (255, 0, 0)
    shown = eval_transform(open_image(image), 64, resize=resize)
    found, visible = seen_in(np.array([[10, 20, 60, 70.0]]), eval_view(90, 160, resize))
    red = shown[..., 1] < 128
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 64
    assert np.abs(found[0] - seen).max() < 1.2 / 64
    assert visible[0] == pytest.approx(0.5 if resize == "shortest" else 1.0)


def test_a_text_gives_a_box_back_to_a_bin(words):
    boxes = np.sort(np.random.default_rng(0).random((200, 2, 2)), axis=1).reshape(-1, 4)
    for box in [*boxes, np.array([0, 0, 1, 1])]:
        (ids,) = words.ids([spell(box)])
        back = read_box(words.text(ids))
        assert np.abs(np.array(back) - box).max() <= 0.5 / BINS + 1e-12
        assert spell(back) == spell(box)
    assert spell((0, 0.5, 0.9999, 1)) == "[0, 250, 499, 499]"
    assert read_box("at [1, 2, 3, 500]") is None
    assert read_box("[1, 2, 3]") is None


def test_overlap():
    first = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1.0]])
    second = np.array([[1, 1, 3, 3], [2, 2, 3, 3], [0, 0, 1, 1.0]])
    np.testing.assert_allclose(overlap(first, second), [1 / 7, 0, 1])


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(["a cat sits", "a dog runs", "the left ear"] * 3, 560)


def modality(words, **augment):
    config = config_lib.default()
    config.data.augment.update(augment)
    config.model.text = config_lib.entry("model", kind="transformer", boxes=True,
                                         context_length=48)  # fmt: skip
    return modalities.build({"text": ("region_texts", config.model.text)}, data=config.data,
                            tokenizer=lambda: words)["text"]  # fmt: skip


def test_a_region_is_drawn_among_those_in_the_crop_and_counted(words):
    reader = modality(words, crop_scale=(0.2, 0.5), flip=0.5)
    assert isinstance(reader, RegionTexts)
    pixels = np.array([[0, 0, 12, 20], [30, 20, 48, 40], [10, 10, 40, 30.0]])
    boxes = Boxes(("a", "b", "c"), pixels)
    record = Record("r", {"image": IMAGES[0], "boxes": boxes})
    items, drawn = [], Counter()
    for epoch in range(300):
        draw = Draw(0, Address(0, 0, epoch), record)
        item = reader.read(record, draw)
        again = reader.read(record, Draw(0, Address(0, 0, epoch), record))
        assert item == again
        crop = draw.once("image", lambda: pytest.fail("the crop is another one"))
        found, visible = seen_in(pixels, crop.to_image)
        kept = [n for n in range(3) if visible[n] >= VISIBLE]
        if kept:
            text, box = item.region
            n = "abc".index(text)
            assert n in kept
            np.testing.assert_allclose(box, found[n])
            if len(kept) == 2:
                drawn[(tuple(kept), n)] += 1
        else:
            assert item.region is None
        assert item[2:] == (3, sum(VISIBLE <= v < 1 - 1e-9 for v in visible), 3 - len(kept))
        items.append(item)
    for kept in {kept for kept, _ in drawn}:  # alike, to four deviations
        counts = [drawn[(kept, n)] for n in kept]
        assert abs(counts[0] - counts[1]) <= 4 * np.sqrt(sum(counts))
    dropped = sum(item.dropped for item in items)
    cut = sum(item.cut for item in items)
    assert min(dropped, cut) > 20
    assert reader.counted(items) == {"boxes": 900, "boxes_cut": cut, "boxes_dropped": dropped}


def test_the_texts_of_a_region(words):
    reader = modality(words)
    region = ("the left ear " * 20, (0.1, 0.2, 0.5, 0.998))
    items = [("a cat sits", region), (None, ("a dog", (0, 0, 1, 1))), ("a dog runs", None), None]
    items = [item and type(reader.blank())(*item) for item in items]
    batch = reader.batch(items)
    assert {name: (x.shape[1:], x.dtype) for name, x in batch.items()} == {
        name: (c.shape, np.dtype(c.dtype)) for name, c in reader.columns.items()
    }
    length = reader.length
    aref, gcap = batch["text_regions"][1, :, :], batch["text_regions_mask"][1]
    texts = [words.text(row[seen]) for row, seen in zip(aref, gcap, strict=True)]
    assert [text.replace(" ", "") for text in texts] == [
        "aref:adog:[0,0,499,499]", "gcap:[0,0,499,499]:adog",
    ]  # fmt: skip
    # The over-long text is cut, its box is not.
    long = words.text(batch["text_regions"][0, 0])
    assert spell(read_box(long)) == spell(region[1]) == "[50, 100, 250, 499]"
    assert batch["text_regions_mask"][0].sum(axis=1).max() <= length
    start, *prefixes = given(words)
    assert batch["text_given"].tolist() == [
        [start, *prefixes], [length, *prefixes], [start, length, length], [length] * 3,
    ]  # fmt: skip
    for row, n in zip(aref, prefixes, strict=True):
        assert words.text(row[:n]).replace(" ", "") in ("aref:", "gcap:")
    # What an evaluator gives is how the training text begins, also of one that is cut.
    said = [region[0], "a dog"]
    prompts, mask = refer(words, said, None, length)
    for n in range(2):
        end = mask[n].sum() - words.ends
        np.testing.assert_array_equal(prompts[n, :end], batch["text_regions"][n, 0, :end])


def test_tokenizers_that_lose_boxes_and_short_texts_are_refused(words):
    lossy = train_tokenizer(["a cat"] * 3, 560)
    lossy.clean = "canonicalize"
    with pytest.raises(UserError, match=r"text\.boxes: the tokenizer reads the box \[0, 10, 100"):
        modality(lossy)
    spec = config_lib.entry("model", kind="transformer", boxes=True, context_length=16)
    with pytest.raises(UserError, match=r"context_length=16 has no room .* set it to \d\d or"):
        modalities.build({"text": ("region_texts", spec)}, tokenizer=lambda: words)


def test_the_loader_counts_boxes_and_is_a_function_of_the_step(tmp_path, words):
    config = config_lib.default()
    config.batch_size = 4
    config.data.augment.crop_scale = (0.2, 0.6)
    config.data.train.a = config_lib.entry("data.train", path="generated:10", boxes="generated")
    sources = data.open_sources(config.data.train)
    reader, counts = modality(words, crop_scale=(0.2, 0.6)), Counter()

    def batches(start, rows):
        made = data.train_batches(sources, config, [reader], rows=np.array(rows), start_step=start,
                                  counts=counts)  # fmt: skip
        found = [next(made) for _ in range(3)]
        made.close()
        return found

    whole, later = batches(0, range(4)), batches(2, range(4))[0]
    assert counts["data/boxes"] == counts["data/examples"] >= 24
    assert 0 < counts["data/boxes_dropped"] < counts["data/boxes"]
    halves = [batches(0, rows) for rows in ([0, 1], [2, 3])]
    assert not any(name.startswith("counted/") for name in whole[0])
    for name, column in whole[2].items():
        np.testing.assert_array_equal(column, later[name])
        np.testing.assert_array_equal(column, np.concatenate([half[2][name] for half in halves]))


def test_shards_that_are_written_have_the_regions(tmp_path):
    spec = coco(tmp_path)
    path = spec.pop("path")
    convert(path, tmp_path / "shards", to="tar", **spec)
    source = open_source({"path": str(tmp_path / "shards"), "boxes": "json:boxes"})
    for n in range(2):
        boxes = source[n].parts["boxes"]
        assert boxes.texts == tuple(text for text, _ in REGIONS[n])
        np.testing.assert_allclose(boxes.boxes, [box for _, box in REGIONS[n]])
    with pytest.raises(UserError, match=r"has regions, which ArrayRecord files do not hold"):
        convert(path, tmp_path / "records", to="arrayrecord", **spec)
