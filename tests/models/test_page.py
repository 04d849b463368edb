"""`mmjax models`: the table agrees with the parameters that are made."""

import pytest
from rich.console import Console

from mmjax import cli
from mmjax.models import page, zoo
from mmjax.models.published import PUBLISHED


def test_one_architecture_is_shown_with_shapes(capsys):
    cli.main(["models", "ViT-B/32"])
    text = capsys.readouterr().out
    assert "151,277,313 parameters" in text
    assert "fc1" in text
    assert "kernel  [12, 768, 3072]" in text
    assert "logit_scale  scalar" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny", "images of 32 pixels, texts of 16 tokens, embeddings of 32."),
        ("tiny-bert", "a pair; texts of 16 tokens, embeddings of 32."),
        ("tiny-clap", "a pair; sounds of 1 seconds, texts of 16 tokens, embeddings of 24."),
    ],
)
def test_what_an_architecture_reads_is_said(capsys, name, said):
    cli.main(["models", name])
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_row_an_architecture(capsys, monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: ["ViT-B/32", "RN50", "tiny"])
    cli.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["ViT-B/32"] == ["151,277,313", "14.8", "224", "77"]
    assert rows["RN50"][0] == "102,007,137"
    assert rows["openai/clip-vit-base-patch32"] == ["(as", "ViT-B/32-quickgelu)"]
    assert rows["laion/CLIP-ViT-B-32-laion2B-s34B-b79K"] == []
    assert "130 of 144 configs and 184 of 196 pretrained tags" in lines[-1]


def test_it_fits_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: ["bert-base-uncased"])
    monkeypatch.setattr(page, "PUBLISHED", {"bert-base-uncased": [w for f in PUBLISHED.values()
                                                                  for w in f]})  # fmt: skip
    page.list_all(Console(width=80, highlight=False, color_system=None))
    lines = capsys.readouterr().out.splitlines()
    shown = {line.strip() for line in lines}
    assert all(weights in shown for names in PUBLISHED.values() for weights in names)
    assert max(map(len, lines)) <= 80


def test_published_weights_are_of_architectures_that_exist():
    for name in PUBLISHED:
        assert zoo.config(name).name == name


def test_unknown_architecture_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        cli.main(["models", "ViT-B32"])
    assert "ViT-B/32" in capsys.readouterr().err
