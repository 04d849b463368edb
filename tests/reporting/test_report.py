"""The page of a run, read back as a browser would."""

import html.parser
import json
import sys

import jax
import pytest
from etils import epath

import mmjax
from mmjax import cli, models
from mmjax import config as config_lib
from mmjax.errors import UserError
from mmjax.reporting import page
from mmjax.reporting.history import groups, read_history
from mmjax.training import loop


class Page(html.parser.HTMLParser):
    """Text and pictures of a page; what it would fetch from elsewhere is an error."""

    def __init__(self, path):
        super().__init__()
        self.text, self.images, self.plots = "", [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link")
        if tag == "img":
            assert attrs["src"].startswith("data:image/jpeg;base64,")
            self.images.append(attrs["src"])
        self.plots += tag == "svg"

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained smoke run with a retrieval evaluator."""
    folder = tmp_path_factory.mktemp("report") / "run"
    config = config_lib.default()
    config.model = models.zoo.config("ViT-B/32")
    config.objectives.clip = config_lib.entry("objectives")
    config.evals.held_out = config_lib.entry("evals", kind="retrieval", path="generated:24")
    config = config_lib.smoke(config)
    config.model.image.unroll = config.model.text.unroll = False
    config.data.workers = 0
    with jax.default_device(jax.devices()[0]):
        loop.train(config, str(folder))
    return folder


def test_page_shows_curves_pictures_and_config(run, capsys):
    cli.main(["report", f"--workdir={run}"])
    assert f"{run}/report.html" in capsys.readouterr().out
    written = Page(run / "report.html")
    assert written.plots >= 4
    assert len(written.images) == 8
    assert "held_out" in written.text
    last = read_history(epath.Path(run))["loss"][1][-1]
    assert f"{last:,.6g}" in written.text
    assert "data.tokenizer" in written.text
    assert "captions:600" in written.text


def test_run_without_checkpoint_has_a_page_that_says_so(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for path in pages:
        cli.main(["report", f"--workdir={tmp_path}", f"--output={path}"])
    assert "no checkpoint yet" in Page(pages[0]).text
    assert not Page(pages[0]).images
    assert pages[0].read_text() == pages[1].read_text()  # the same run, the same page


def test_steps_gone_over_again_count_once_and_a_torn_line_not_at_all(tmp_path):
    rows = [{"step": s, "loss": v} for s, v in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 4.0), (3, 3.0))]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "metrics.jsonl").write_text(lines + '\n{"step": 4, "lo')
    assert read_history(epath.Path(tmp_path)) == {"loss": ([1, 2, 3], [5.0, 4.0, 3.0])}


def test_plots_hold_what_is_read_together():
    curve = ([1, 2], [0.0, 1.0])
    still = ([1, 2], [0.0, 0.0])
    names = [
        "lr",
        "data/examples",
        "loss",
        "loss/clip",
        "coco/i2t/R@1",
        "coco/i2t/R@5",
        "coco/i2t/mean_rank",
    ]
    history = dict.fromkeys(names, curve) | {"nonfinite": still}
    assert groups(history) == {
        "loss": ["loss/clip"],
        "lr": ["lr"],
        "coco/i2t": ["coco/i2t/R@1", "coco/i2t/R@5"],
        "coco/i2t/mean_rank": ["coco/i2t/mean_rank"],
    }


def test_no_run_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"not a workdir of a run"):
        mmjax.report(tmp_path)


def test_missing_library_names_the_extra(run, monkeypatch, capsys):
    monkeypatch.delattr("mmjax.reporting.page", raising=False)
    monkeypatch.setitem(sys.modules, "mmjax.reporting.page", None)  # its import fails
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", f"--workdir={run}"])
    assert stopped.value.code == 2
    assert "mmjax[report]" in capsys.readouterr().err


def test_keys_of_a_kind_that_is_registered_elsewhere_are_shown():
    config = config_lib.default()
    config.objectives.spread = {"kind": "of_a_config_file", "t": 2.0}
    rows = page.differences(config)
    assert ("objectives.spread.t", 2.0, "") in rows


def test_a_step_is_said_where_it_is_not_the_last():
    history = {"loss": ([1, 9], [5.0, 4.0]), "coco/R@1": ([5], [0.25])}
    assert page.latest(history) == [("loss", "", "4"), ("coco/R@1", "at step 5", "0.25")]
