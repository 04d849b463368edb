"""ArrayRecord files, bare and from TFDS, without TensorFlow."""

import io
import pickle
import subprocess
import sys

import msgpack
import pytest
from pictures import encode, picture

from mmjax.data import BadRecord, Record, Texts, open_source
from mmjax.data.array_record import write_array_record
from mmjax.errors import UserError


def parts(n):
    return {"image": encode(picture(n)), "text": Texts((f"one {n}", f"two {n}"))}


def records(count):
    return [Record(f"key{n}", parts(n), n % 3, n) for n in range(count)]


def test_what_is_written_is_read(tmp_path):
    write_array_record(tmp_path / "a.array_record-00000-of-00002", records(3))
    write_array_record(tmp_path / "a.array_record-00001-of-00002", records(2))
    source = pickle.loads(pickle.dumps(open_source({"path": str(tmp_path)}, "mine")))
    assert len(source) == 5
    for n, expected in enumerate(records(3) + records(2)):
        record = source[n]
        assert record.key == f"mine: record {n} ({expected.key})"
        assert record.parts["image"] == expected.parts["image"]
        assert source.captions(n) == expected.captions
        assert (record.label, record.group) == (expected.label, expected.group)


def test_any_writer_of_msgpack_will_do(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "mine.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(msgpack.packb({"image": b"x", "title": "a title"}))
    writer.write(b"\xc1 is no msgpack")
    writer.write(msgpack.packb({"caption": "no image"}))
    writer.close()
    source = open_source({"path": str(path), "caption": "title"}, "mine")
    assert source[0].captions == ("a title",)
    with pytest.raises(BadRecord, match="mine: record 1 cannot be read"):
        source[1]
    with pytest.raises(BadRecord, match="mine: record 2 is no msgpack map with an image"):
        source[2]


def test_files_that_are_no_array_record_are_named(tmp_path):
    path = tmp_path / "a.array_record"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.array_record is empty"):
        open_source({"path": str(path)})
    path.write_bytes(b"<html>" * 100_000)
    with pytest.raises(UserError, match=r"a\.array_record is no whole ArrayRecord file"):
        open_source({"path": str(path)})
    write_array_record(path, records(3))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.array_record is no whole ArrayRecord file"):
        open_source({"path": str(path)})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS dataset of five records: its data_dir and its own folder."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for r in records(5):
                captions = [{"text": text} for text in r.captions]
                yield (
                    r.key,
                    {"image": io.BytesIO(r.parts["image"]), "captions": captions, "label": r.label},
                )

    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return folder, str(builder.data_path)


def test_tfds_by_name_and_by_folder(prepared):
    folder, path = prepared
    expected = {r.captions: r for r in records(5)}
    for spec in ({"path": f"tfds://tiny?data_dir={folder}"}, {"path": path}):
        source = pickle.loads(pickle.dumps(open_source(spec)))
        found = {source[n].captions: source[n] for n in range(len(source))}
        assert found.keys() == expected.keys()
        for captions, record in found.items():
            assert record.parts["image"] == expected[captions].parts["image"]  # still encoded
            assert record.label == expected[captions].label


def test_tfds_splits_and_features(prepared):
    folder, path = prepared
    assert len(open_source({"path": f"tfds://tiny?data_dir={folder}&split=train[:3]"})) == 3
    assert len(open_source({"path": path, "split": "train[3:]"})) == 2
    for spec, message in [
        ({"path": path, "split": "val"}, "split val .*Unknown split 'val'"),
        ({"path": path, "caption": "title"}, "no feature 'title'; it has captions, image, label"),
        ({"path": path, "image": "photo"}, "no feature 'photo'"),
        ({"path": "tfds://no_such_dataset"}, "cannot read the TFDS dataset no_such_dataset"),
        (
            {"path": "tfds://imagenet2012?data_dir=nowhere"},
            "imagenet2012 was not found in nowhere.*build_imagenet",
        ),
        ({"path": "tfds://tiny?dir=x"}, "take data_dir and split, not 'dir'"),
    ]:
        with pytest.raises(UserError, match=message):
            open_source(spec)


def test_tensorflow_is_not_imported(prepared):
    code = (
        "import sys; from mmjax.data import open_source; "
        f"source = open_source({{'path': {prepared[1]!r}}}); source[0]; "
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
