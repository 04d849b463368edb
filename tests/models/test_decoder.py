"""Generation with its cache against whole forward passes without one, greedy and by beams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.models.parts import part

START, END, LENGTH, ROWS = 1, 2, 6, 3


@functools.cache
def made(style, text_depth=2):
    config = tiny.config().model
    config.text.update(mlm_head=True, vocab_size=9, depth=text_depth, context_length=LENGTH)
    batch = tiny.batch(config, size=ROWS)
    style, _, shapes = style.partition(" of ")
    if style == "none":
        del config.image, config.logit
    else:
        config.fusion = config_lib.entry("model", kind=style, depth=2)
    if shapes:  # 3 × 2, 1 × 4 and 2 × 4 patches, and noise behind them
        config.image = part("naflex", size=16, patch_size=4, width=32, depth=1, heads=4, mlp_dim=64)
        rng = np.random.default_rng(3)
        batch["image"] = rng.integers(0, 256, (ROWS, 9, 48), dtype=np.uint8)
        batch["image_shape"] = np.array([[3, 2], [1, 4], [2, 4]], np.int32)
        batch["image_mask"] = np.arange(9) < batch["image_shape"].prod(axis=1)[:, None]
    model = models.from_config(config)
    params = tiny.params(model)
    # Sharper than random, and the end comes sometimes.
    params["text"]["token_embed"]["embedding"] *= 6
    return model, params, batch


def forward(style, text_depth=2):
    """(image rows, texts [R, LENGTH]) → log p of what follows each position, [R, LENGTH, V]."""
    model, params, batch = made(style, text_depth)

    @jax.jit
    def run(rows, texts):
        shown = {name: jnp.asarray(x)[rows] for name, x in batch.items() if "image" in name}
        shown |= {
            "text": texts, "text_mask": jnp.ones(texts.shape, bool), "text_ar": jnp.ones_like(texts)
        }  # fmt: skip
        name = "text/tokens" if style == "none" else "fusion/tokens"
        tokens = model.apply({"params": params}, shown, (name,))[name]
        logits = model.apply({"params": params}, {"text/tokens": tokens}, ("text/logits",))
        return jax.nn.log_softmax(logits["text/logits"])

    return run


def search(style, text_depth, row, beams):
    """Beam search in plain Python: the tokens after the first, and their log p."""
    run = forward(style, text_depth)
    alive = [((START,), 0.0)]
    for _ in range(LENGTH - 1):
        options = []
        texts = np.full((beams, LENGTH), END, np.int32)
        for number, (tokens, _) in enumerate(alive):
            texts[number, : len(tokens)] = tokens
        log = np.asarray(run(np.full(beams, row), texts), np.float64)
        for number, (tokens, total) in enumerate(alive):
            if END in tokens:
                options.append(((*tokens, END), total))
                continue
            following = log[number, len(tokens) - 1]
            options += [((*tokens, t), total + following[t]) for t in range(len(following))]
        alive = sorted(options, key=lambda option: -option[1])[:beams]
    return alive[0]


@pytest.mark.parametrize(
    ("style", "text_depth", "beams"),
    [
        ("cross", 2, 1),
        ("concat", 2, 3),
        ("cross", 0, 3),
        ("none", 2, 2),
        ("cross of shapes", 2, 2),
        ("concat of shapes", 0, 2),
    ],
)
def test_the_cache_changes_nothing(style, text_depth, beams):
    model, params, batch = made(style, text_depth)
    shown = {name: x for name, x in batch.items() if "image" in name}
    said = models.generate(model, params, shown, start_id=START, end_id=END, beams=beams)
    for row in range(ROWS):
        tokens, log_prob = search(style, text_depth, row, beams)
        np.testing.assert_array_equal(said.tokens[row], tokens)
        assert float(said.log_prob[row]) == pytest.approx(log_prob, abs=1e-4)
        length = tokens.index(END) + 1 if END in tokens else LENGTH
        assert said.mask[row].tolist() == [i < length for i in range(LENGTH)]


def test_pictures_change_what_is_said():
    model, params, batch = made("cross", 0)
    said = models.generate(
        model, params, {"image": batch["image"]}, start_id=START, end_id=END, beams=3
    )
    assert len({tuple(row) for row in np.asarray(said.tokens).tolist()}) > 1


def test_models_that_cannot_speak_say_so():
    model, params, batch = made("cross", 0)
    with pytest.raises(UserError, match=r"length=99: texts have 2 to .*context_length=6 tokens"):
        models.generate(model, params, batch, start_id=START, end_id=END, length=99)
    model, params, batch = made("bottleneck")
    with pytest.raises(UserError, match=r"cannot generate text: .*mlm_head=True .*no bottleneck"):
        models.generate(model, params, batch, start_id=START, end_id=END)


def test_parts_may_have_any_names_and_several_are_chosen_from():
    model, params, batch = made("cross", 0)
    config = tiny.config().model
    config.text.update(mlm_head=True, vocab_size=9, depth=0, context_length=LENGTH)
    config.photo, config.line = config.image, config.text
    config.photo.kind, config.line.kind = "vit", "transformer"
    del config.image, config.text, config.logit
    config.joint = config_lib.entry("model", kind="cross", depth=2, of=("photo", "line"))
    renamed = {"image": "photo", "text": "line", "fusion": "joint"}
    own = {name: params[old] for old, name in renamed.items()}
    texts = functools.partial(models.generate, start_id=START, end_id=END, beams=2)
    expected = texts(model, params, {"image": batch["image"]})
    said = texts(models.from_config(config), own, {"photo": batch["image"]})
    np.testing.assert_array_equal(said.tokens, expected.tokens)

    config.other = config_lib.entry("model", kind="cross", depth=1, of=("photo", "line"))
    two = models.from_config(config)
    other = tiny.params(two)["other"]
    with pytest.raises(UserError, match=r"Several parts .* choose of= from \['joint', 'other'\]"):
        texts(two, own | {"other": other}, {"photo": batch["image"]})
    said = texts(two, own | {"other": other}, {"photo": batch["image"]}, of="joint")
    np.testing.assert_array_equal(said.tokens, expected.tokens)


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_go_on_from_their_prompts(beams):
    """Prompts of several lengths in one batch: each row is what a search from its own gives."""
    model, params, batch = made("cross", 0)
    prompts = np.array([[START, 5, 6], [START, 7, 0], [START, 0, 0]], np.int32)
    given = np.array([3, 2, 1], np.int32)
    say = functools.partial(models.generate, model, params, end_id=END, start_id=START, beams=beams)
    said = say({"image": batch["image"]}, prompt=(prompts, given))
    plain = say({"image": batch["image"]})
    np.testing.assert_array_equal(said.tokens[2], plain.tokens[2])
    assert float(said.log_prob[2]) == pytest.approx(float(plain.log_prob[2]), abs=1e-5)
    run = forward("cross", 0)
    for row in range(2):
        assert said.tokens[row, : given[row]].tolist() == prompts[row, : given[row]].tolist()
        alive = [(tuple(prompts[row, : given[row]].tolist()), 0.0)]
        for _ in range(LENGTH - given[row]):
            texts = np.full((beams, LENGTH), END, np.int32)
            for number, (tokens, _) in enumerate(alive):
                texts[number, : len(tokens)] = tokens
            log = np.asarray(run(np.full(beams, row), texts), np.float64)
            options = []
            for number, (tokens, total) in enumerate(alive):
                if END in tokens[given[row] :]:
                    options.append(((*tokens, END), total))
                    continue
                following = log[number, len(tokens) - 1]
                options += [((*tokens, t), total + following[t]) for t in range(len(following))]
            alive = sorted(options, key=lambda option: -option[1])[:beams]
        assert tuple(said.tokens[row].tolist()) == alive[0][0]
        assert float(said.log_prob[row]) == pytest.approx(alive[0][1], abs=1e-4)
    with pytest.raises(UserError, match=r"length=2: the prompts have 3 tokens: cut them"):
        say({"image": batch["image"]}, prompt=(prompts, given), length=2)
