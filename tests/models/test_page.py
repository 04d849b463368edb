"""`mmjax models`: the table agrees with the parameters that are made."""

import pytest

from mmjax import cli
from mmjax.models import zoo
from mmjax.models.published import PUBLISHED


def test_one_architecture_is_shown_with_shapes(capsys):
    cli.main(["models", "ViT-B/32"])
    text = capsys.readouterr().out
    assert "151,277,313 parameters" in text
    assert "fc1" in text
    assert "kernel  [12, 768, 3072]" in text
    assert "logit_scale  scalar" in text


def test_a_row_an_architecture(capsys, monkeypatch):
    monkeypatch.setattr(zoo, "names", lambda: ["ViT-B/32", "tiny"])
    cli.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.strip().startswith("ViT-B/32 ")]
    assert row.split()[1:5] == ["151,277,313", "14.8", "224", "77"]
    assert any("openai/clip-vit-base-patch32" in line for line in lines)


def test_published_weights_are_of_architectures_that_exist():
    for name in PUBLISHED:
        assert zoo.config(name).name == name


def test_unknown_architecture_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        cli.main(["models", "ViT-B32"])
    assert "ViT-B/32" in capsys.readouterr().err
