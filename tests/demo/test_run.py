"""The whole demo, made small: the files it leaves, the shape of results.json, the second run."""

import json

import pytest
from fake_packages import encoded, write_package
from PIL import Image

from demo import prepare, run

NAMES = ("red apple", "hot dog", "rocket", "octopus", "cactus", "robot", "snowman")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Seven emoji in every style, and the demo pointed at them and at a few steps of training."""
    pytest.importorskip("resvg_py", reason="comes with the extra demo")
    pytest.importorskip("matplotlib", reason="comes with the extra demo")
    emoji = [
        {"label": name, "hexcode": f"1F60{i}", "order": i, "group": i % 2, "subgroup": 0}
        for i, name in enumerate(NAMES)
    ]
    messages = {
        "groups": [{"order": 0, "message": "nature"}, {"order": 1, "message": "objects"}],
        "subgroups": [{"order": 0, "message": "things"}],
    }
    text = {"en/data.json": emoji, "en/messages.json": messages}
    packages = tmp_path / "emoji" / "packages"
    write_package(packages, prepare.TEXT, {p: json.dumps(v).encode() for p, v in text.items()})
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="5"/></svg>'
    for name in ("google", "fluent", "openmoji", "twitter"):
        style = prepare.STYLES[name]
        folders = ("color/svg", "black/svg") if style.suffix == "svg" else (style.folder,)
        content = svg if style.suffix == "svg" else encoded(style.suffix.upper())
        files = {
            f"{folder}/{e['hexcode'].lower()}.{style.suffix}": content
            for folder in folders
            for e in emoji
        }
        write_package(packages, style.package, files)
    monkeypatch.setattr(run, "DATA", tmp_path / "emoji")
    monkeypatch.setattr(run, "CONFIG", f"{run.CONFIG}:smoke")
    return tmp_path


def test_the_demo_leaves_its_results_picture_and_weights(data):
    workdir = data / "run"
    run.main(workdir)

    results = json.loads((workdir / "results.json").read_text())
    ranks = {"R@1", "R@5", "R@10"}
    assert {key: set(value) for key, value in results.items() if isinstance(value, dict)} == {
        "heldout": {"image_to_text", "text_to_image", "candidates"},
        "zero_shot": {"top1", "top5", "classes"},
        "export": {"max_abs_logit_diff"},
    }
    assert results.keys() >= {"train_seconds", "total_seconds", "examples_per_second"}
    assert len(results) == 6
    assert set(results["heldout"]["image_to_text"]) == ranks
    assert set(results["heldout"]["text_to_image"]) == ranks
    assert 0 < results["train_seconds"] <= results["total_seconds"]
    assert results["export"]["max_abs_logit_diff"] < 1e-4
    assert (workdir / "huggingface" / "model.safetensors").exists()
    assert Image.open(workdir / "demo.png").width > 1000

    trained = (workdir / "metrics.jsonl").read_text()
    run.main(workdir)  # uses what is there
    assert (workdir / "metrics.jsonl").read_text() == trained
    again = json.loads((workdir / "results.json").read_text())
    assert again["heldout"] == results["heldout"]
    assert again["train_seconds"] == results["train_seconds"]
