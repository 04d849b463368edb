"""preprocessor_config.json in its spellings: the pixels are those of transformers' processors, or
the field that is in the way is named."""

import ast
import json
from pathlib import Path

import numpy as np
import peers
import pytest
from ml_collections import ConfigDict
from PIL import Image
from pytorch import transformers

import mmjax
from mmjax.data import eval_transform
from mmjax.errors import UserError
from mmjax.interop.huggingface import preprocessor

SIZE = peers.SIZE
NORMAL = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
CLIP, VIT, SIGLIP = "CLIPVisionModelWithProjection", "ViTModel", "SiglipModel"
SPELLINGS = {
    "CLIP today": (CLIP, {"size": {"shortest_edge": SIZE}, "do_center_crop": True,
                          "crop_size": {"height": SIZE, "width": SIZE}, "resample": 3}),
    "CLIP as published": (CLIP, {"size": SIZE, "crop_size": SIZE, "do_center_crop": True,
                                 "resample": 3}),
    "CLIP squashed": (CLIP, {"size": {"height": SIZE, "width": SIZE}, "crop_size": SIZE}),
    "ViT today": (VIT, {"size": {"height": SIZE, "width": SIZE}, "resample": 2}),
    "ViT as published": (VIT, {"size": SIZE}),
    "SigLIP": (SIGLIP, {"size": {"height": SIZE, "width": SIZE}, "resample": 3}),
    "SigLIP by default": (SIGLIP, {"size": {"height": SIZE, "width": SIZE}}),
}  # fmt: skip


def folder_of(path, name, settings):
    peers.make(name).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(NORMAL | settings))
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pixels_are_those_of_transformers(tmp_path, spelling):
    name, settings = SPELLINGS[spelling]
    model = mmjax.load(folder_of(tmp_path, name, settings))
    kind = {CLIP: "CLIP", VIT: "ViT", SIGLIP: "Siglip"}[name]
    processor = getattr(transformers, f"{kind}ImageProcessor").from_pretrained(tmp_path)
    expected = np.asarray(processor(picture(), return_tensors="np")["pixel_values"])[0]
    found = model.preprocess([picture()])[0].astype(np.float32) / 255
    found = (found - np.float32(NORMAL["image_mean"])) / np.float32(NORMAL["image_std"])
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-5, rtol=0)


def prepared(folder, settings, kind, picture, *, file="preprocessor_config.json"):
    """The numbers that a model of SIZE pixels sees, ours and those of transformers."""
    nested = {"image_processor": settings} if file.startswith("processor") else settings
    (folder / file).write_text(json.dumps(nested))
    model = ConfigDict({"image": {"size": SIZE, "mean": (0.0,) * 3, "std": (1.0,) * 3}})
    fit = preprocessor.read(folder, model, kind.lower())
    found = eval_transform(picture, SIZE, **fit).astype(np.float32) / 255
    found = (found - np.float32(model.image.mean)) / np.float32(model.image.std)
    processor = getattr(transformers, f"{kind}ImageProcessor").from_pretrained(folder)
    expected = processor(picture, return_tensors="np")["pixel_values"]
    expected = np.asarray(expected)[0]  # a picture is a video of one frame for VideoMAE's
    return found.transpose(2, 0, 1), expected[0] if expected.ndim == 4 else expected


def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).resize((70, 45))


SIDES = (SIZE, SIZE + 8, {"shortest_edge": SIZE}, {"height": SIZE, "width": SIZE},
         {"height": SIZE, "width": SIZE + 8}, {"longest_edge": SIZE}, {"shortest_edge": SIZE + 8},
         {"shortest_edge": SIZE, "longest_edge": SIZE + 8}, None)  # fmt: skip
NUMBERS = ([0.1, 0.2, 0.3], [0.5], 0.5, "x")
VALUES = {
    "size": SIDES, "crop_size": SIDES, "default_to_square": (True, False), "resample": range(6),
    "image_mean": NUMBERS, "image_std": NUMBERS, "rescale_factor": (1 / 255, 1 / 127.5, 1, None),
    "pad_size": (None, {"height": SIZE, "width": SIZE}), "image_seq_length": (None, 7),
    "crop_pct": (None, 0.9), "rescale_offset": (True,), "a_new_field": (None, 1, True),
    "data_format": ("channels_first",), "image_processor_type": ("BeitImageProcessor",),
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_pad", "do_center_crop",
                     "do_convert_rgb"), (True, False, None)),
}  # fmt: skip


HERE = [kind for kind in preprocessor.PROCESSORS if kind != "Tipsv2"]  # that needs torchvision


@pytest.mark.parametrize("kind", HERE)
def test_every_field_is_honoured_or_refused_by_name(tmp_path, kind):
    square = {"height": SIZE, "width": SIZE}
    base = NORMAL | {"size": square, "crop_size": square}
    base |= {"image_processor_type": f"{kind}ImageProcessor", "do_normalize": True}
    wanted, refused = picture(), set()
    for field, values in VALUES.items():
        for number, value in enumerate(values):
            folder = tmp_path / f"{field}-{number}"
            folder.mkdir()
            try:
                found, expected = prepared(folder, base | {field: value}, kind, wanted)
            except UserError as error:
                said = str(value) if field == "image_processor_type" else f"{field}={value!r}"
                # A lone size may be refused for what it then is, a side without a cut.
                assert said in str(error) or "do_center_crop=False" in str(error)  # noqa: PT017
                refused.add(field)
                continue
            if field != "do_convert_rgb" or value is not False:
                np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=folder.name)
    assert refused >= {
        "size", "resample", "image_mean", "rescale_factor", "pad_size", "do_resize", "do_rescale",
        "do_normalize", "do_pad", "a_new_field", "crop_pct", "image_processor_type",
    }  # fmt: skip


@pytest.mark.parametrize("kind", HERE)
def test_all_fields_of_transformers_are_known_with_their_defaults(kind):
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    fields = {*processor.to_dict(), *processor.valid_kwargs.__annotations__}
    assert fields <= preprocessor.KNOWN
    for field, value in preprocessor.PROCESSORS[kind].items():
        of_class = getattr(processor, field, None)
        of_class = dict(of_class) if field.endswith("size") and of_class is not None else of_class
        if field == "do_center_crop":
            of_class = bool(of_class)
        if field == "default_to_square":
            of_class = of_class is not False
        assert (list(of_class) if isinstance(of_class, tuple) else of_class) == value, field


def test_the_defaults_of_tipsv2_are_those_in_its_source():
    folder = Path(transformers.__file__).parent / "models" / "tipsv2"
    (made,) = (
        node for node in ast.parse((folder / "image_processing_tipsv2.py").read_text()).body
        if isinstance(node, ast.ClassDef)
    )  # fmt: skip
    found = {node.targets[0].id: node.value for node in made.body if isinstance(node, ast.Assign)}
    found["resample"] = ast.Constant({"BILINEAR": 2, "BICUBIC": 3}[found["resample"].attr])
    fixed = {"do_resize": True, "do_rescale": True, "do_convert_rgb": True}
    defaults = fixed | preprocessor.PROCESSORS["Tipsv2"]
    assert {key: ast.literal_eval(value) for key, value in found.items()}.items() <= (
        defaults.items()
    )


def test_where_transformers_5_keeps_the_fields(tmp_path):
    """Its processors write processor_config.json, which goes before the older file."""
    settings = NORMAL | SPELLINGS["CLIP today"][1]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 1}))
    found, expected = prepared(tmp_path, settings, "CLIP", picture(), file="processor_config.json")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"/processor_config\.json: .*do_rescale=False"):
        prepared(tmp_path, settings | {"do_rescale": False}, "CLIP", picture(),
                 file="processor_config.json")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resample": 1}, "resample=1"),
        ({"size": {"shortest_edge": 18}}, r"size=\{'shortest_edge': 18\}"),
        ({"size": {"shortest_edge": SIZE}, "do_center_crop": False}, "do_center_crop=False"),
        ({"do_normalize": None}, "do_normalize=None"),
    ],
)
def test_what_would_give_other_pixels_is_said(tmp_path, change, said):
    folder = folder_of(tmp_path, CLIP, SPELLINGS["CLIP today"][1] | change)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: .*{said}.*16 pixels"):
        mmjax.load(folder)
