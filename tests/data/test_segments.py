"""Region features and tags: read, padded, put after the words; what is wrong with them is said."""

import io
import json
import pickle
import re

import numpy as np
import pytest
from pictures import write_tar
from reading import reads

from mmjax import config as config_lib
from mmjax.data import eval_batches, open_source, train_batches
from mmjax.data.modalities import Regions, Tags
from mmjax.data.modalities.regions import parse
from mmjax.data.records import BadRecord, Record
from mmjax.data.walk import why_unreadable
from mmjax.errors import UserError

R, F, L, T, B = 3, 8, 14, 6, 4
SPEC = {"caption": "txt", "tags": "json:tags", "media": "regions"}


def features(number, count=2, width=F):
    return np.random.default_rng(number).normal(size=(count, width)).astype(np.float32)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def triple(number, regions=None, **values):
    values = {"tags": ["number", str(number)]} | values
    regions = npy(features(number, 1 + number % 5)) if regions is None else regions
    return [
        (f"{number:05d}.npy", regions),
        (f"{number:05d}.txt", f"picture number {number}".encode()),
        (f"{number:05d}.json", json.dumps(values).encode()),
    ]


def write(folder, *triples):
    write_tar(folder / "0.tar", [member for members in triples for member in members])
    return {"path": str(folder / "0.tar"), **SPEC}


def config(**spec):
    result = config_lib.default()
    result.batch_size = B
    result.model.image = config_lib.entry("model", kind="regions", regions=R, region_width=F)
    result.model.text = config_lib.entry("model", kind="transformer", context_length=L, tags=T)
    result.data.train.triples = config_lib.entry("data.train", **spec)
    return result


def check(settings, source):
    for modality in reads(settings):
        modality.check(source, settings.data.train.triples, "config.data.train.triples")


def first_batch(source, settings, tokenizer):
    read = reads(settings, tokenizer)
    batches = train_batches([source], settings, read, rows=np.arange(B), start_step=0)
    try:
        return next(batches)
    finally:
        batches.close()


def test_triples_are_read_from_tars(tmp_path):
    spec = write(tmp_path, triple(0), triple(7, tags="a dog"))
    source = pickle.loads(pickle.dumps(open_source(spec)))
    for number, record, tags in ((0, source[0], "number 0"), (7, source[1], "a dog")):
        found = np.load(io.BytesIO(record.parts["regions"]))
        np.testing.assert_array_equal(found, features(number, 1 + number % 5))
        assert record.parts["tags"] == tags
        assert record.captions == (f"picture number {number}",)
        assert "image" not in record.parts
        assert record.key.endswith(f"0.tar: {number:05d}.npy")


def test_batches_hold_regions_and_tags_after_the_words(tmp_path, tokenizer):
    spec = write(tmp_path, *(triple(n) for n in range(B)))
    source, settings = open_source(spec), config(**spec)
    batch = first_batch(source, settings, tokenizer)
    assert batch["image"].shape == (B, R, F)
    assert batch["image"].dtype == np.float32
    (walked,) = eval_batches(source, reads(settings, tokenizer), batch_size=B, rows=np.arange(B))
    decode = tokenizer.wrapped.decode
    numbers = []
    for row in range(B):
        text, mask = batch["text"][row], batch["text_mask"][row]
        words, tags = text[: L - T][mask[: L - T]], text[L - T :][mask[L - T :]]
        assert words[0] == tokenizer.start_id
        assert words[-1] == tags[-1] == tokenizer.eot_id
        said, named = (decode(x, skip_special_tokens=True).split()[-1] for x in (words, tags))
        assert said == named  # of the same record
        number = int(named)
        numbers.append(number)
        truth = features(number, 1 + number % 5)[:R]
        assert batch["image_mask"][row].tolist() == [i < len(truth) for i in range(R)]
        np.testing.assert_array_equal(batch["image"][row, : len(truth)], truth)
        assert (batch["image"][row, len(truth) :] == 0).all()
    for name in ("image", "image_mask", "text", "text_mask"):
        np.testing.assert_array_equal(walked[name][numbers], batch[name], err_msg=name)
    assert not walked["unreadable"].any()


def test_generated_ones_are_of_their_picture(tokenizer):
    spec = {"path": "generated:8", "tags": "generated", "media": "regions"}
    source = open_source(spec)
    assert source[3].parts["tags"] == "red cross"
    assert parse(source[3]).shape == (2, 16)
    plain = open_source({"path": "generated:8"})[3]
    assert plain.parts.keys() == {"image", "text"}
    np.testing.assert_array_equal(plain.parts["image"], source[3].parts["image"])


def test_triples_without_a_part_are_left_out(tmp_path, caplog):
    lacking = [member for member in triple(1) if not member[0].endswith("npy")]
    source = open_source(
        write(tmp_path, triple(0), lacking, triple(2, npy(features(2)), tags=None))
    )
    assert len(source) == 2
    assert source.skipped == {"without a region file (.npy)": 1}
    assert source[1].parts["tags"] == ""
    write(tmp_path, lacking)
    with pytest.raises(UserError, match=r"none of the pairs .* \(1 without a region file"):
        open_source(write(tmp_path, lacking))
    with pytest.raises(UserError, match=r"1 without tags 'objects'"):
        open_source(write(tmp_path, triple(0)) | {"tags": "json:objects"})


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        (b"no array", r"00001\.npy cannot be read as NumPy's \.npy"),
        (npy(features(0, 2, F + 1)), rf"00001\.npy has regions of {F + 1} numbers, not {F}"),
        (npy(features(0)[0]), r"00001\.npy holds float32 \[8\], no float \[regions, numbers\]"),
        (npy(features(0) * np.nan), r"00001\.npy has regions that are no finite numbers"),
        (npy(np.ones((2, F), int)), r"00001\.npy holds int64 \[2, 8\]"),
    ],
)
def test_a_bad_file_is_named_and_replaced(tmp_path, tokenizer, caplog, regions, said):
    spec = write(tmp_path, *(triple(n, regions if n == 1 else None) for n in range(B)))
    source = open_source(spec)
    with pytest.raises(BadRecord, match=said):
        Regions("image", R, F).read(source[1], None)
    batch = first_batch(source, config(**spec), tokenizer)
    assert batch["image_mask"].sum(axis=1).tolist().count(2) == 0  # that of record 1
    assert "1.npy" in caplog.text


def test_what_a_source_does_not_give_is_said_before_the_first_step(tmp_path):
    spec = write(tmp_path, triple(0))
    source = open_source(spec)
    check(config(**spec), source)
    with pytest.raises(UserError, match=r"wants object tags: set config\.evals\.held\.tags"):
        Tags("text", L, None, tags=T).check(source, {"path": "held.tar"}, "config.evals.held")
    wrong = config(**spec)
    wrong.model.image.region_width = 2054
    with pytest.raises(
        UserError, match=r"triples: .* 8 numbers each, .*region_width=2054: set it t"
    ):
        check(wrong, source)
    with pytest.raises(UserError, match=r"reads region features: set .*triples\.media='regions'"):
        check(config(**spec | {"media": "image"}), source)
    with pytest.raises(UserError, match=r"text\.tags=6 wants object tags: set .*triples\.tags to"):
        check(config(**spec | {"tags": ""}), source)
    wrong = config(**spec)
    wrong.model.image = config_lib.entry("model", kind="vit")
    with pytest.raises(UserError, match=r"model\.image reads images: set .*triples\.media='image'"):
        check(wrong, source)
    bad = write(tmp_path, triple(1, b"?"))
    with pytest.raises(UserError, match=r"npy cannot be read .* are these the right files\?"):
        check(config(**bad), open_source(bad))
    said = why_unreadable(open_source(bad), 0, reads(config(**bad)))
    assert re.search(r"00001\.npy cannot be read as NumPy's \.npy", said)
    table = tmp_path / "a.csv"
    table.write_text("image,caption\n")
    with pytest.raises(UserError, match=r"media='regions' works on"):
        open_source({"path": str(table), "media": "regions"})
    with pytest.raises(UserError, match=r"tags='objects' of tar shards must be \"json:FIELD\""):
        open_source(spec | {"tags": "objects"})


def test_a_record_without_regions_is_bad():
    with pytest.raises(BadRecord, match="is without regions"):
        parse(Record("a.jpg", {"image": b""}))
