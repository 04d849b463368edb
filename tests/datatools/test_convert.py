"""Conversions there and back, and TFRecord files made by protobuf and tensorboardX."""

import gzip
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboardX.record_writer import RecordWriter

from mmjax.cli import main
from mmjax.data import open_source
from mmjax.datatools import convert
from mmjax.datatools.opening import spec_of
from mmjax.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import encode, pair, picture, write_tar


def content(source, first=0):
    return [
        (r.parts["image"], r.captions, r.label, r.group)
        for r in map(source.__getitem__, range(len(source)))
    ]


def test_tar_to_arrayrecord_and_back_keeps_every_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    members = [m for n in range(7) for m in pair(n, captions=[f"one {n}", f"two {n}"])]
    members[0] = ("../00000.png", members[0][1])
    members[1] = ("../00000.txt", members[1][1])
    members[2] = ("../00000.json", members[2][1])
    write_tar(Path("in/0.tar"), members)
    keys = ["--set", "caption=json:captions", "--set", "label=label", "--set", "group=group"]
    main(["data", "convert", "in", "ar", "--to=arrayrecord", "--shard_size=3", *keys])
    main(["data", "convert", "ar", "back", "--to=tar", "--shard_size=4"])
    keys = {"caption": "json:captions", "label": "label", "group": "group"}
    expected = content(open_source({"path": "in", **keys}))
    assert content(open_source({"path": "ar"})) == expected
    assert content(open_source({"path": "back", **keys})) == expected
    assert open_source({"path": "back"}).captions(2) == ("one 2",)
    assert sorted(p.name for p in Path("ar").iterdir()) == [
        f"0000{n}.array_record" for n in range(3)
    ]
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(SystemExit):
        main(["data", "convert", "in", "ar", "--to=tar"])


def test_a_caption_of_several_lines_stays_one_caption(tmp_path):
    (tmp_path / "0.png").write_bytes(encode(picture(0)))
    (tmp_path / "a.csv").write_text('image,caption\n0.png,"a dog\nin the snow"\n')
    convert(str(tmp_path / "a.csv"), str(tmp_path / "out"), to="tar", shard_size=9)
    path = str(tmp_path / "out")
    assert open_source({"path": path}).captions(0) == ("a dog in the snow",)
    source = open_source({"path": path, "caption": "json:captions"})
    assert source.captions(0) == ("a dog\nin the snow",)


def test_decoded_pictures_are_encoded_without_loss(tmp_path):
    convert("generated:5", str(tmp_path / "out"), to="tar", shard_size=9)
    source = open_source({"path": str(tmp_path / "out"), "label": "label"})
    assert [r.label for r in map(source.__getitem__, range(5))] == [0, 1, 2, 3, 4]
    assert source[3].parts["image"] == encode(
        open_source({"path": "generated:5"})[3].parts["image"]
    )


def example_class():
    """tf.train.Example, declared as in example.proto and compiled by protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields, parent=file.message_type):
        found = parent.add(name=name)
        for number, (field, kind, label, type_name) in enumerate(fields, start=1):
            found.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return found

    for name, kind in (("BytesList", kinds.TYPE_BYTES), ("FloatList", kinds.TYPE_FLOAT),
                       ("Int64List", kinds.TYPE_INT64)):  # fmt: skip
        message(name, ("value", kind, kinds.LABEL_REPEATED, None))
    one, of = kinds.LABEL_OPTIONAL, kinds.TYPE_MESSAGE
    names = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
    lists = [(field, of, one, f".t.{kind}") for field, kind in names.items()]
    message("Feature", *lists)
    entries = ("feature", of, kinds.LABEL_REPEATED, ".t.Features.FeatureEntry")
    features = message("Features", entries)
    pair_of = (("key", kinds.TYPE_STRING, one, None), ("value", of, one, ".t.Feature"))
    entry = message("FeatureEntry", *pair_of, parent=features.nested_type)
    entry.options.map_entry = True
    message("Example", ("features", of, one, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def write_tfrecord(path, count=6):
    example_type = example_class()
    writer = RecordWriter(str(path))
    for n in range(count):
        example = example_type()
        feature = example.features.feature
        feature["image/encoded"].bytes_list.value.append(encode(picture(n), "JPEG"))
        feature["image/class/label"].int64_list.value.append(n + 1)
        feature["caption"].bytes_list.value.extend([b"one", f"picture {n}".encode()])
        feature["score"].float_list.value.extend([0.5, n])
        feature["box"].int64_list.value.extend([-1, 300, 1 << 40])
        writer.write(example.SerializeToString())
    writer.close()


@pytest.mark.parametrize("zipped", [False, True])
def test_tfrecords_are_read_without_tensorflow(tmp_path, zipped):
    path = tmp_path / "train-00000-of-00001"
    write_tfrecord(path)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    out = str(tmp_path / "out")
    done = convert(str(path), out, to="arrayrecord", shard_size=4, label_offset=-1)
    assert (done.records, done.bad, done.classes) == (6, 0, 0)
    expected = [(encode(picture(n), "JPEG"), ("one", f"picture {n}"), n, -1) for n in range(6)]
    assert content(open_source({"path": out})) == expected


def test_every_kind_of_feature_is_parsed(tmp_path):
    from mmjax.datatools.tfrecord import parse_example, read_frames

    write_tfrecord(tmp_path / "a.tfrecord", 3)
    examples = [parse_example(data) for data in read_frames(str(tmp_path / "a.tfrecord"))]
    assert examples[2]["score"] == [0.5, 2.0]
    assert examples[2]["box"] == [-1, 300, 1 << 40]


def test_damaged_tfrecords_are_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path)
    whole = path.read_bytes()
    out = str(tmp_path / "out")
    for data, message in (
        (whole[:-5], "is cut off after 5 examples"),
        (b"<html>404</html>" * 9, "is no TFRecord file"),
        (whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 :], "is damaged after"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            convert(str(path), out, to="tar", shard_size=9)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="has no image in pixels; it has box, caption, image/class"):
        convert(path, out, to="tar", image="pixels")
    with pytest.raises(UserError, match=r"run mmjax data convert .* --to=arrayrecord once"):
        open_source({"path": str(path)})
    assert not Path(out).exists()


def test_keys_of_the_source_are_checked():
    keys = {"filter": "width > 3", "caption_weights": "1,2", "bad_shards": 0.5}
    assert spec_of("a", keys) == {
        "path": "a",
        "filter": "width > 3",
        "caption_weights": (1.0, 2.0),
        "bad_shards": 0.5,
    }
    for keys, message in (({"capton": "x"}, "nearest is .*caption"),
                          ({"timeout": "soon"}, "must be a number above 0")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            spec_of("a", keys)


def test_the_names_of_classes_go_with_their_numbers(tmp_path):
    for number, name in enumerate(("bee", "ant")):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(encode(picture(number)))
    for to in ("tar", "arrayrecord"):
        out = tmp_path / to
        assert convert(tmp_path / "set", out, to=to).classes == 2
        assert (out / "classes.txt").read_text() == "ant\nbee\n"
    label = {"path": str(tmp_path / "tar"), "label": "json:label"}
    assert open_source(label)[0].label == 0
    convert(**label, output=tmp_path / "again", to="tar")
    assert not (tmp_path / "again" / "classes.txt").exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_members_have_the_suffix_of_what_they_are(tmp_path, kind):
    (tmp_path / "set").mkdir()
    suffix = {"JPEG": "jpg", "TIFF": "tiff"}.get(kind, kind.lower())
    data = encode(picture(0), kind)
    (tmp_path / "set" / f"0.{suffix}").write_bytes(data)
    (tmp_path / "set" / "0.txt").write_text("a")
    convert(str(tmp_path / "set"), str(tmp_path / "out"), to="tar", shard_size=9)
    record = open_source({"path": str(tmp_path / "out")})[0]
    assert record.key.endswith(f"000000000.{suffix}")
    assert record.parts["image"] == data
