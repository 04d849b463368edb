"""The report of a data set and its contact sheet."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.cli import main

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import encode, pair, picture, write_tar


def test_counts_sizes_captions_and_bad_members_are_told(tmp_path, capsys):
    members = [m for n in range(20) for m in pair(n)]
    members += [("jpeg.jpg", encode(picture(1, 30, 90), "JPEG")), ("jpeg.txt", b"a wide one")]
    members += [("cut.png", members[0][1][:50]), ("cut.txt", b"cut off"), ("lone.txt", b"no image")]
    write_tar(tmp_path / "0.tar", members)
    sheet, facts = tmp_path / "sheet.png", tmp_path / "facts.json"
    main(["data", "inspect", str(tmp_path), f"--sheet={sheet}", f"--json={facts}"])
    printed = capsys.readouterr().out
    assert "22 records" in printed
    assert "left out: 1 without an image" in printed
    assert "0.tar: cut.png cannot be decoded" in printed
    told = json.loads(facts.read_text())
    assert (told["read"], told["bad"]) == (22, 1)
    assert told["formats"] == {"PNG": 20, "JPEG": 1}
    widths = told["distributions"]["width"]
    assert (widths["least"], widths["median"], widths["most"]) == (48, 48, 90)
    assert told["distributions"]["aspect"]["most"] == 3
    assert told["distributions"]["caption length"]["most"] == len("picture number 10")
    pixels = np.asarray(Image.open(sheet))
    assert (pixels[:, :, 0] != 255).mean() > 0.2, "the sheet is blank"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "the path no/such does not exist"),
        (["generated:3", "--sheet=no/such/a.png"], "there is no such folder"),
        (["generated:3", "--sheet=a.gif"], "is a .png file"),
    ],
)
def test_mistakes_have_their_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "inspect", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_texts_without_images_and_names_of_classes_are_told(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\n\nthree words here\n")
    facts = tmp_path / "facts.json"
    main(["data", "inspect", str(tmp_path / "a.txt"), f"--json={facts}"])
    printed = capsys.readouterr().out
    assert "read 2: 2 of text without an image" in printed
    told = json.loads(facts.read_text())
    assert told["bad"] == 0
    assert told["distributions"].keys() == {"captions", "caption length"}
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(encode(picture(0)))
    main(["data", "inspect", str(tmp_path / "set")])
    assert "2 classes: ant → 0, bee → 1" in capsys.readouterr().out
