"""Sounds in folders, tables and tars, and what training and evaluation hear of them."""

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from PIL import Image

from mmjax import config as config_lib
from mmjax import data, datatools, models
from mmjax.data import from_records, modalities, open_source
from mmjax.data.draw import Draw
from mmjax.data.modalities import Audio
from mmjax.data.order import Address
from mmjax.data.records import BadRecord, Record
from mmjax.data.sounds import Waveform, filled, open_sound
from mmjax.data.videos import Clip
from mmjax.errors import UserError

pytest.importorskip("av")
pytest.importorskip("soundfile")
import films
import written_tones as tones
from pictures import write_tar

RATE = 16_000
WAVES = [tones.sweep(1.0, RATE, 1, 300.0 * (n + 1)) for n in range(3)]
FILES = [tones.encoded(wave, RATE, "WAV", "FLOAT") for wave in WAVES]
HEARD = Audio("audio", sample_rate=RATE, seconds=0.5)


@pytest.fixture
def folder(tmp_path):
    for number, file in enumerate(FILES):
        (tmp_path / f"{number} é.WAV").write_bytes(file)
        (tmp_path / f"{number} é.txt").write_text(f"sound {number}")
    return tmp_path


def heard(source):
    return [HEARD.read(source[n], None) for n in range(len(source))]


EXPECTED = [wave[: RATE // 2, 0] for wave in WAVES]


def test_a_folder_of_sounds_with_texts(folder):
    source = open_source({"path": str(folder), "media": "audio"})
    assert [source.captions(n) for n in range(3)] == [(f"sound {n}",) for n in range(3)]
    np.testing.assert_array_equal(heard(source), EXPECTED)


def test_other_media_are_named(folder):
    with pytest.raises(UserError, match=r"holds sounds, as .*\.WAV: set media='audio'"):
        open_source({"path": str(folder)})
    (folder / "a.mp4").write_bytes(films.film(films.pictures(3), sound=True))
    with pytest.raises(UserError, match=r"holds sounds|holds videos"):
        open_source({"path": str(folder), "media": "image"})


def test_a_folder_of_classes(folder):
    for number in range(3):
        (folder / f"class{number % 2}").mkdir(exist_ok=True)
        (folder / f"{number} é.WAV").rename(folder / f"class{number % 2}/{number}.flac")
        (folder / f"{number} é.txt").unlink()
    source = open_source({"path": str(folder), "media": "audio"}, labels=True)
    assert sorted(source[n].label for n in range(3)) == [0, 0, 1]
    assert source.classes == ("class0", "class1")


def test_a_table_of_clips_and_of_films(folder):
    """Of a film it is the sound that is read."""
    (folder / "film.mp4").write_bytes(films.film(films.pictures(25), b_frames=0, sound=True))
    rows = [
        "audio,caption,start,end",
        "0 é.WAV,second half,0.5,",
        "film.mp4,the sound of a film,,",
        "1 é.WAV,wrong,3,2",
        "gone.wav,gone,,",
    ]
    (folder / "sounds.csv").write_text("\n".join(rows), encoding="utf-8")
    source = open_source({"path": str(folder / "sounds.csv"), "media": "audio"})
    assert [source.captions(n)[0] for n in range(2)] == ["second half", "the sound of a film"]
    np.testing.assert_array_equal(HEARD.read(source[0], None), WAVES[0][RATE // 2 :, 0])
    assert np.abs(HEARD.read(source[1], None)).max() > 0.01
    assert source.skipped == {
        "whose clip ends before it starts": 1,
        "whose audio file is missing": 1,
    }


def test_tars(tmp_path):
    members = [
        (f"{n:05d}{suffix}", content)
        for n, file in enumerate(FILES)
        for suffix, content in ((".wav", file), (".txt", b"sound %d" % n))
    ]
    write_tar(tmp_path / "00000.tar", members)
    for _ in range(2):  # the second time from the index
        source = open_source({"path": str(tmp_path), "media": "audio"})
        np.testing.assert_array_equal(heard(source), EXPECTED)
        assert source.captions(1) == ("sound 1",)
    with pytest.raises(UserError, match=r"there are sounds, as .*wav: set media='audio'"):
        open_source({"path": str(tmp_path)})


def test_records_of_a_program(folder):
    path = str(folder / "1 é.WAV")
    given = [
        {"audio": Waveform(WAVES[1], RATE), "text": "samples"},
        {"audio": FILES[1], "text": "a file's bytes"},
        {"audio": path, "text": "a path"},
        {"audio": Clip(path, 0.0, 0.5), "text": "a clip"},
    ]
    source = open_source({"path": from_records(given)})
    np.testing.assert_array_equal(heard(source), [EXPECTED[1]] * 4)
    changed = [{**given[0], "audio": Waveform(-WAVES[1], RATE)}, *given[1:]]
    assert source.identity() != open_source({"path": from_records(changed)}).identity()


def test_the_draw_says_what_is_heard():
    """Somewhere in the sound; readers at another rate hear the same seconds."""
    ramp = np.linspace(0, 0.9, 10 * RATE, dtype=np.float32)
    record = Record("a ramp", {"audio": Waveform(ramp, RATE)})
    means = []
    for epoch in range(6):
        draw = Draw(0, Address(0, epoch, 3), record)
        first = HEARD.read(record, draw)
        again = HEARD.read(record, Draw(0, Address(0, epoch, 3), record))
        np.testing.assert_array_equal(first, again)
        start = int(np.argmin(np.abs(ramp - first[0])))
        np.testing.assert_array_equal(first, ramp[start : start + RATE // 2])
        teacher = Audio("t", sample_rate=24_000, seconds=0.5).read(record, draw)
        assert abs(teacher.mean() - first.mean()) < 1e-3
        means.append(first.mean())
    assert np.ptp(means) > 0.1
    np.testing.assert_array_equal(HEARD.read(record, None), ramp[: RATE // 2])


def test_shorter_sounds_are_filled():
    record = Record("short", {"audio": Waveform(WAVES[0][:3000], RATE)})
    for fill in ("repeat", "zeros"):
        found = Audio("audio", RATE, 0.5, fill).read(record, None)
        np.testing.assert_array_equal(found, filled(WAVES[0][:3000, 0], 8000, fill))


def test_the_sound_of_a_record_of_a_film():
    """A model with parts for both hears and sees one record."""
    film = films.film(films.pictures(25), b_frames=0, sound=True)
    found = HEARD.read(Record("a film", {"video": film}), None)
    np.testing.assert_array_equal(found, HEARD.read(Record("its sound", {"audio": film}), None))
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"audio": b"nothing"}, "^a: cannot be decoded"),
        ({"audio": films.film(films.pictures(3))}, "^a: has no audio stream, but video"),
        ({"audio": Waveform(WAVES[0][:0], RATE)}, "^a: has no sound"),
        ({"text": "x"}, "^a: is without audio"),
    ],
)
def test_what_is_wrong_is_named(parts, said):
    with pytest.raises(BadRecord, match=said):
        HEARD.read(Record("a:", parts), None)


def run(path, workers=0):
    config = tiny.config()
    config.data.train.sounds = config_lib.entry("data.train", path=str(path), media="audio")
    config.data.workers = workers
    return config


def batches(config, start, rows):
    sources = data.open_sources(config.data.train)
    found = data.train_batches(sources, config, [HEARD], rows=np.array(rows), start_step=start)
    try:
        return [next(found)["audio"] for _ in range(2)]
    finally:
        found.close()


def test_batches_are_the_same_for_any_workers_hosts_and_restarts(folder):
    """Bad sounds are replaced alike, too."""
    (folder / "torn.wav").write_bytes(FILES[0][:30])
    (folder / "torn.txt").write_text("torn")
    straight = batches(run(folder), 0, range(16))
    np.testing.assert_array_equal(batches(run(folder), 1, range(16))[0], straight[1])
    two = [batches(run(folder, workers=2), 0, rows) for rows in (range(8), range(8, 16))]
    for step in range(2):
        np.testing.assert_array_equal(np.concatenate([host[step] for host in two]), straight[step])
    assert len({row.tobytes() for row in straight[0]}) > 8  # random parts


def test_generated_tones_are_what_their_captions_say():
    source = open_source({"path": "generated:48", "media": "audio"})
    assert len(source.classes) == 12
    for number in range(48):
        record = source[number]
        way, pitch = source.classes[record.label].split()
        assert way in record.captions[0]
        assert pitch in record.captions[1]
        wave = open_sound(record.part("audio")).read(0, RATE)
        power = np.abs(np.fft.rfft(wave.reshape(8, -1) * np.hanning(2000))) ** 2  # 8 moments
        tone = power.argmax(axis=1) * 8
        if way == "pulsing":
            assert np.abs(wave).reshape(-1, 200).mean(1).min() < 0.02
        else:
            bend = np.log2(tone[-1] / tone[0])
            assert {"steady": abs(bend) < 0.1, "rising": bend > 0.4, "falling": bend < -0.4}[way]
        low, high = {"low": (150, 450), "middle": (450, 1150), "high": (1200, 3000)}[pitch]
        assert low < np.median(tone) < high
    with pytest.raises(UserError, match="tags are of images"):
        open_source({"path": "generated:48", "media": "audio", "tags": "json:x"})


def test_they_are_inspected(folder):
    (folder / "torn.wav").write_bytes(FILES[0][:30])
    (folder / "torn.txt").write_text("torn")
    sheet = folder / "sheet.png"
    facts = datatools.inspect(str(folder), sheet=str(sheet), media="audio")
    assert (facts["records"], facts["bad"]) == (4, 1)
    assert facts["formats"] == {"audio": 3}
    assert facts["distributions"]["seconds"]["median"] == 1
    assert facts["distributions"]["sample rate"]["least"] == RATE
    pixels = np.asarray(Image.open(sheet).convert("L"), int)
    assert pixels.shape[1] == 3 * 168 + 8
    assert (pixels[:160] < 60).any()  # a tone


def test_a_smoke_run_hears_what_its_model_reads():
    config = config_lib.default()
    text = models.parts.part("transformer")
    config.model = models.parts.complete(
        {"audio": {"kind": "audio_vit"}, "text": text, "logit": {"kind": "scale"}}
    )
    config.data.train.sounds = config_lib.entry("data.train", media="audio")
    small = config_lib.smoke(config)
    assert small.data.train.sounds.media == "audio"
    kinds = modalities.build(models.inputs(ConfigDict(small.model)), data=small.data)
    assert kinds["audio"].columns["audio"].shape == (16_000,)
