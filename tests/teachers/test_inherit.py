"""A student that starts from its teacher: which layers, heads and channels it gets."""

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules
from mmjax.params import path_string
from mmjax.teachers import CachedTeacher, OnlineTeacher
from mmjax.teachers.inherit import inherit

TEACHER_DEPTH, HEADS, CHANNELS = 6, 4, 8  # of each head


def teacher():
    config = tiny.config()
    for tower in (config.model.image, config.model.text):
        tower.update(depth=TEACHER_DEPTH, heads=HEADS, width=HEADS * CHANNELS)
    model = models.from_config(config.model)
    params = tiny.params(model)
    weights = Weights("teacher", config, lambda like: jax.tree.map(jax.numpy.asarray, params))
    return OnlineTeacher("big", "float32", weights, model), params


def start(change):
    """(our parameters by path, the teacher's by path) of a student that `change` makes."""
    big, params = teacher()
    config = config_lib.default()
    config.model = big.weights.config.model.copy_and_resolve_references()
    change(config.model)
    mesh = mesh_lib.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        like = rules.with_shardings(tiny.shapes(models.from_config(config.model)), mesh)
        ours = inherit(big, config, like)
        assert jax.tree.map(lambda x: x.sharding, ours) == jax.tree.map(lambda x: x.sharding, like)
    return flat(ours), flat(params)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_string(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_student_of_the_same_shape_is_the_teacher():
    ours, theirs = start(lambda model: None)
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_layers_heads_and_channels_are_the_leading_ones():
    def half(model):
        model.embed_dim = 8
        model.image.update(depth=3, heads=2, width=2 * 6, mlp_dim=40)
        model.text.depth = 4

    ours, theirs = start(half)
    np.testing.assert_array_equal(
        ours["text/blocks/mlp/fc1/bias"], theirs["text/blocks/mlp/fc1/bias"][[0, 1, 3, 4]]
    )
    every_second = slice(0, TEACHER_DEPTH, 2)
    # Columns of the leading 6 channels of the leading 2 heads; rows of the leading 12 channels.
    columns = [head * CHANNELS + channel for head in range(2) for channel in range(6)]
    for name in ("query", "key", "value"):
        kernel = theirs[f"image/blocks/attention/{name}/kernel"][every_second]
        np.testing.assert_array_equal(
            ours[f"image/blocks/attention/{name}/kernel"], kernel[:, :12][..., columns]
        )
        bias = theirs[f"image/blocks/attention/{name}/bias"][every_second]
        np.testing.assert_array_equal(ours[f"image/blocks/attention/{name}/bias"], bias[:, columns])
    out = theirs["image/blocks/attention/out/kernel"][every_second]
    np.testing.assert_array_equal(
        ours["image/blocks/attention/out/kernel"], out[:, columns][..., :12]
    )
    np.testing.assert_array_equal(ours["image/head/kernel"], theirs["image/head/kernel"][:12, :8])
    assert ours["logit_scale"] == theirs["logit_scale"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.image.update(patch_size=4), r"has image\.patch_size=8, the student 4"),
        (lambda m: m.text.update(vocab_size=65), r"has text\.vocab_size=64, the student 65"),
        (lambda m: m.image.update(depth=7), r"image/blocks/\S+ \(7, .*larger than the teacher's"),
        (lambda m: m.image.update(heads=8), r"8 heads of 4 channels, the teacher 4 of 8"),
        (lambda m: m.image.update(patch_bias=True), r"no parameter image/patch_embed/bias"),
    ],
)
def test_a_student_that_is_no_part_of_the_teacher(change, said):
    with pytest.raises(UserError, match=rf"config\.teachers\.big\.start: .*{said}"):
        start(change)


def test_heads_of_stages_are_not_cut():
    config = tiny.config()
    config.model = models.zoo.config("tiny-clap")
    model = models.from_config(config.model)
    weights = Weights("teacher", config, lambda like: tiny.params(model))
    big, mesh = OnlineTeacher("big", "float32", weights, model), mesh_lib.make_mesh(2, 2, 2)
    said = r"big\.start: config\.model\.audio is of the kind 'htsat', whose heads differ"
    with jax.set_mesh(mesh), pytest.raises(UserError, match=said):
        inherit(big, config, rules.with_shardings(tiny.shapes(model), mesh))


def test_a_teacher_without_weights():
    big, _ = teacher()
    with pytest.raises(UserError, match=r"big\.start needs the teacher's weights: set its source"):
        inherit(CachedTeacher("big", "float32", None), big.weights.config, {})
