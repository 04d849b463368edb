"""Training from weights made elsewhere: what is taken, resized, left, missing, refused."""

import jax
import numpy as np
import peers
import pytest
import tiny

from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.interop.start import plan, renamed, start_from
from mmjax.models import parts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """class → its folder, for those asked for."""
    root, made = tmp_path_factory.mktemp("saved"), {}

    def folder(name, **changes):
        key = f"{name}{sorted(changes)}"
        if key not in made:
            path = root / str(len(made))
            peers.make(name, **changes).save_pretrained(path)
            made[key] = path
        return registry.open_weights(made[key])

    return folder


def two_towers(*of_weights):
    """A CLIP whose towers are those of the weights, with linear heads."""
    model = models.zoo.default("image", "text", "logit")
    for weights in of_weights:
        for tower in parts.sections(weights.config.model).keys() - {"logit"}:
            model[tower] = weights.config.model[tower].copy_and_resolve_references()
            model[tower].update(head="linear", unroll=False)
    model.text.mlm_head = False
    model.embed_dim = 24
    return model


def random_params(model):
    return jax.device_put(tiny.params(models.from_config(model), seed=5))


def test_one_tower_starts_and_the_rest_stays(saved):
    vit, bert = saved("ViTModel"), saved("BertForMaskedLM")
    model = two_towers(vit, bert)
    params = random_params(model)
    found, report = start_from(vit, model, params)
    source = vit.read(shapes(vit.config.model))
    for name in ("blocks", "patch_embed", "position_embed", "norm_post"):
        jax.tree.map(np.testing.assert_array_equal, found["image"][name], source["image"][name])
    assert report.left == ["image/head/bias", "image/head/kernel"]  # a pooler, not a projection
    jax.tree.map(np.testing.assert_array_equal, found["text"], params["text"])
    assert "random: image/head, logit_scale, text/blocks (16)" in str(report)
    assert "image/blocks (16)" in str(report)


def test_a_tower_starts_one_of_another_name(saved):
    """Positions are resized under the new name, too; the other tower keeps its own."""
    clip = saved("CLIPModel")
    model = clip.config.model.copy_and_resolve_references()
    image = {key: value for key, value in model.image.items() if key != "kind"}
    model.video = parts.part("vit", **(image | {"unroll": False}))
    del model.image
    weights = renamed(clip, (("image", "video"),))
    found, report = start_from(weights, model, random_params(model))
    source = clip.read(shapes(clip.config.model))
    jax.tree.map(np.testing.assert_array_equal, found["video"], source["image"])
    jax.tree.map(np.testing.assert_array_equal, found["text"], source["text"])
    np.testing.assert_array_equal(found["logit_scale"], source["logit_scale"])
    assert (report.left, report.missing) == ([], [])
    model.video.size += 2 * model.video.patch_size
    found, _ = start_from(weights, model, random_params(model))
    grid = model.video.size // model.video.patch_size
    assert found["video"]["position_embed"].shape[0] == 1 + grid**2
    with pytest.raises(UserError, match=r"has no part 'picture': it has image, logit, text"):
        renamed(clip, (("picture", "video"),))
    with pytest.raises(UserError, match=r"two parts of .* one name"):
        renamed(clip, (("image", "text"),))


def test_berts_tower_starts_a_shorter_text_tower(saved):
    vit, bert = saved("ViTModel"), saved("BertForMaskedLM")
    model = two_towers(vit, bert)
    model.text.context_length = 7
    model.text.activation = "gelu_tanh"
    params = random_params(model)
    found, report = start_from(bert, model, params)
    source = bert.read(shapes(bert.config.model))["text"]
    np.testing.assert_array_equal(found["text"]["position_embed"], source["position_embed"][:7])
    np.testing.assert_array_equal(
        found["text"]["blocks"]["mlp"]["fc2"]["kernel"], source["blocks"]["mlp"]["fc2"]["kernel"]
    )
    assert {path.split("/")[1] for path in report.left} == {"mlm"}
    of_text = {path for path in report.missing if not path.startswith("image/")}
    assert of_text == {"logit_scale", "text/head/kernel"}
    assert report.differing == [
        "config.model.text.activation='gelu_tanh', but the weights were made with 'gelu'"
    ]
    jax.tree.map(np.testing.assert_array_equal, found["image"], params["image"])


def test_parts_are_patterns(saved):
    clip = saved("CLIPModel")
    model = clip.config.model
    params = random_params(model)
    found, report = start_from(clip, model, params, parts=("image/", "logit_scale"))
    assert {path.split("/")[0] for path in report.taken} == {"image", "logit_scale"}
    assert float(found["logit_scale"]) == pytest.approx(np.log(50.0))
    jax.tree.map(np.testing.assert_array_equal, found["text"], params["text"])
    with pytest.raises(UserError, match=r"'vision/' matches no parameter.*image/blocks"):
        plan(clip, model, parts=("vision/",))


def test_part_of_a_packed_parameter(saved):
    """transformers keeps q, k and v of SigLIP's pooling in one: a part of it can be taken."""
    siglip = saved("SiglipModel")
    model = siglip.config.model
    query = "image/pool/attention/query/"
    found, report = start_from(siglip, model, random_params(model), parts=(query,))
    assert report.taken == [f"{query}bias", f"{query}kernel"]
    whole = siglip.read(shapes(model))["image"]["pool"]["attention"]["query"]
    jax.tree.map(np.testing.assert_array_equal, found["image"]["pool"]["attention"]["query"], whole)


def test_another_width_names_the_parameter_and_both_shapes(saved):
    clip = saved("CLIPModel")
    model = two_towers(clip)
    model.image.mlp_dim = 64
    with pytest.raises(
        UserError, match=r"image/blocks/mlp/fc1/\w+ has shape \(2, .*48\) in .*, but \(2, .*64\) in"
    ):
        plan(clip, model)
    plan(clip, model, parts=("text/",))


def test_another_architecture_is_one_sentence(saved):
    bert, model = saved("BertModel"), saved("ViTModel").config.model
    with pytest.raises(UserError, match=r"is of another architecture: it holds text/blocks"):
        plan(bert, model)


def test_positions_that_start_elsewhere_are_not_stretched(saved):
    """RoBERTa's begin with two rows for padding, BERT's do not."""
    roberta = saved("RobertaForMaskedLM")
    model = two_towers(saved("ViTModel"), saved("BertForMaskedLM"))
    with pytest.raises(UserError, match=r"text/position_embed has shape \(14, 32\).*\(12, 32\)"):
        plan(roberta, model, parts=("text/(?!type_embed)",))
