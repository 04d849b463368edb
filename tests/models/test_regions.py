"""Oscar's stream of words, tags and regions against transformers' VisualBERT, which has one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import torch, transformers

from mmjax import config as config_lib
from mmjax import config_check, models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.models.flops import forward_flops
from mmjax.parallel import mesh as mesh_lib

V, L, TAGS, R, F, B, WIDTH, LAYERS = 40, 14, 5, 4, 6, 16, 32, 1
MASK = V - 1
SLOWER = [pytest.param(n, marks=pytest.mark.long) for n in (2, 4)]


def oscar(**text):
    """`config.model` of a small Oscar."""
    model = models.zoo.config("bert-base-uncased")
    model.embed_dim = WIDTH
    form = {"width": WIDTH, "norm_eps": 1e-12}
    regions = config_lib.entry("model", kind="regions", regions=R, region_width=F, **form)
    model.image = regions
    tower = {"heads": 2, "mlp_dim": 48, **form}
    model.text.update(vocab_size=V, context_length=L, tags=TAGS, depth=0, unroll=False, **tower)
    model.text.update(text)
    model.fusion = config_lib.entry("model", kind="concat", depth=LAYERS)
    return model


def batch():
    rng = np.random.default_rng(0)
    words, tags = rng.integers(3, L - TAGS + 1, (B, 1)), rng.integers(1, TAGS + 1, (B, 1))
    count = rng.integers(1, R + 1, (B, 1))
    mask = [np.arange(L - TAGS) < words, np.arange(TAGS) < tags]
    return {
        "text": rng.integers(3, V - 1, (B, L)).astype(np.int32),
        "text_mask": np.concatenate(mask, axis=1),
        "image": rng.normal(size=(B, R, F)).astype(np.float32),
        "image_mask": np.arange(R) < count,
        "group": np.arange(B, dtype=np.int32) // 2,
    }


@functools.cache
def peers(folder):
    """(VisualBERT, the masked-language head of a BERT with the same layers, our parameters)."""
    sizes = {
        "vocab_size": V, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": L,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    settings = transformers.VisualBertConfig(**sizes, visual_embedding_dim=F)
    visual = transformers.VisualBertModel(settings, add_pooling_layer=False).eval()
    visual.load_state_dict(bert.bert.state_dict(), strict=False)
    embeddings = visual.embeddings
    with torch.no_grad():  # theirs have types and positions here, and one norm for all
        embeddings.visual_token_type_embeddings.weight.zero_()
        embeddings.visual_position_embeddings.weight.zero_()
        embeddings.visual_projection.weight.normal_()
        embeddings.visual_projection.bias.normal_()
        embeddings.word_embeddings.weight.mul_(20)
        bert.bert.embeddings.word_embeddings.weight.mul_(20)
    bert.save_pretrained(folder)
    weights = registry.open_weights(folder)
    text = weights.read(shapes(weights.config.model))["text"]
    params = tiny.params(models.from_config(oscar()))
    params["fusion"] |= {"blocks": text.pop("blocks"), "type_embed": np.zeros((2, WIDTH), "f4")}
    projection = embeddings.visual_projection
    params["image"]["region_embed"] = {
        "kernel": projection.weight.detach().numpy().T, "bias": projection.bias.detach().numpy()
    }  # fmt: skip
    params |= {"text": text, "image": params["image"] | {"norm_embed": text["norm_embed"]}}
    return visual, bert.cls, jax.tree.map(np.asarray, params)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bert")


@functools.cache
def ours(folder, devices):
    """(metrics, gradients, outputs) of Oscar's losses; on 0 devices of masked language alone."""
    config = config_lib.default().objectives
    config.mlm = config_lib.entry("objectives")
    config.matching = config_lib.entry("objectives", negatives="tags")
    none = np.zeros(V, bool)
    if not devices:
        del config.matching
    built = objectives.build(config, oscar(), Vocabulary(V - 1, MASK, (), none, none))
    model, params = models.from_config(oscar()), peers(folder)[2]
    config_check.validate_outputs(built, model.outputs())

    def loss(params, batch):
        outputs = run_views(model, built, params, batch, jax.random.key(1))
        total, metrics = total_loss(built, outputs, batch)
        return total, (metrics, outputs)

    count = devices or 1
    mesh = mesh_lib.make_mesh(count, 1, 1, jax.devices()[:count])
    with jax.set_mesh(mesh):
        put = mesh_lib.put_batch(batch(), B)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=tiny.QUICK)
        (_, (metrics, outputs)), gradient = run(params, put)
    return jax.tree.map(np.asarray, (metrics, gradient, outputs))


def test_the_stream_and_its_masked_words_are_those_of_visual_bert(folder):
    metrics, gradient, outputs = ours(folder, 0)
    made, plain = outputs["mlm"], batch()
    visual, head, _ = peers(folder)
    regions = torch.tensor(plain["image"], requires_grad=True)
    hidden = visual(
        input_ids=torch.tensor(made["text"]).long(),
        attention_mask=torch.tensor(plain["text_mask"]).long(),
        token_type_ids=torch.tensor(np.arange(L) >= L - TAGS).long().expand(B, L),
        visual_embeds=regions, visual_attention_mask=torch.tensor(plain["image_mask"]).long(),
    ).last_hidden_state[:, :L]  # fmt: skip
    labels = np.full((B, L), -100)
    np.put_along_axis(labels, made["positions"], made["targets"], axis=1)
    labels = torch.tensor(np.where(labels < 0, -100, labels))
    tags_hidden = (labels[:, L - TAGS :] >= 0).sum()
    assert 0 < tags_hidden < (labels >= 0).sum()  # words and tags are both masked
    loss = torch.nn.functional.cross_entropy(head(hidden).reshape(-1, V), labels.reshape(-1))
    loss.backward()
    assert metrics["loss/mlm"] == pytest.approx(loss.item(), rel=1e-5)
    projection = visual.embeddings.visual_projection.weight.grad.numpy().T
    types = visual.embeddings.token_type_embeddings.weight.grad.numpy()
    for value, truth in (
        (gradient["image"]["region_embed"]["kernel"], projection),
        (gradient["text"]["type_embed"], types),
    ):
        np.testing.assert_allclose(value, truth, atol=2e-5 * np.abs(truth).max())


@pytest.mark.parametrize("devices", [*SLOWER, 8])
def test_losses_and_gradients_are_those_of_one_device(folder, devices):
    metrics, gradient, *_ = ours(folder, devices)
    truth, expected, *_ = ours(folder, 1)
    assert {"loss/mlm", "loss/matching", "matching/accuracy", "mlm/perplexity"} <= metrics.keys()
    for name, value in truth.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    scale = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * scale


def test_padding_of_regions_is_not_seen(folder):
    model, params = models.from_config(oscar()), peers(folder)[2]
    names = ("fusion/tokens", "fusion/match")
    run = jax.jit(lambda batch: model.apply({"params": params}, batch, names))
    plain = batch()
    other = {**plain, "image": np.where(plain["image_mask"][..., None], plain["image"], 9.0)}
    seen = {**plain, "image": plain["image"] + plain["image_mask"][..., None]}
    assert (plain["image"] != other["image"]).any()
    before, same, changed = (run(b) for b in (plain, other, seen))
    for name in names:
        np.testing.assert_allclose(same[name], before[name], atol=1e-6)
        assert jnp.abs(changed[name] - before[name]).max() > 1e-3


def test_pairs_take_the_padding_of_their_regions():
    """Matching of texts without tags, by pairs: the mask goes where its regions go."""
    config = oscar(tags=0)
    model, plain = models.from_config(config), batch()
    objective = objectives.REGISTRY["matching"]("matching", negatives="uniform", model=config)
    params = tiny.params(model)

    @jax.jit
    def logits(batch):
        outputs = run_views(model, {"matching": (objective, 1.0)}, params, batch, jax.random.key(0))
        return outputs["matching/pairs"]["fusion/match"]

    filled = {**plain, "image": np.where(plain["image_mask"][..., None], plain["image"], 9.0)}
    np.testing.assert_allclose(logits(filled), logits(plain), atol=1e-6)


def test_flops_count_regions():
    some, more = oscar(), oscar()
    more.image.region_width = F + 1
    flops = [forward_flops(c, tiny.shapes(models.from_config(c))) for c in (some, more)]
    assert flops[1] - flops[0] == 2 * R * WIDTH


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.fusion": None}, r"kind='regions' is read by a fusion: add config\.model\.fusion"),
        ({"model.image.regions": 0}, "must be an integer of 1 or more"),
        ({"model.text.depth": 2}, "third segment of an early fusion"),
        ({"model.text.token_types": 1}, "third segment of an early fusion"),
        ({"model.text.tags": 34}, "leaves no room: of context_length=14"),
        ({"data.text_lengths": (8,)}, r"text_lengths must be \(\)"),
    ],
)
def test_what_regions_and_tags_do_not_go_with(changes, said):
    config = tiny.config()
    config.model, config.objectives = oscar(), {"mlm": config_lib.entry("objectives")}
    config.data.train.triples = config_lib.entry("data.train", path="generated:8")
    config_check.validate(config)
    if changes == {"model.fusion": None}:
        del config.model.fusion
    else:
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=said):
        config_check.validate(config)


def test_captions_of_tags_are_refused():
    config = tiny.config()
    config.model, config.objectives = oscar(), {"caption": config_lib.entry("objectives")}
    config.data.train.triples = config_lib.entry("data.train", path="generated:8")
    with pytest.raises(UserError, match=r"caption would say the tags, too"):
        config_check.validate(config)
    model = models.from_config(oscar())
    with pytest.raises(UserError, match="tags=0"):
        models.generate(model, {}, {}, start_id=1, end_id=2)
