"""Config files: their paths, their neighbours, what a command sets, and what is wrong with them."""

import subprocess
import sys

import cloudpickle
import pytest

from mmjax.config_file import load_config
from mmjax.data import sources
from mmjax.errors import UserError

CONFIG = """
from mmjax import config as config_lib, models
def get_config(arg=None):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config.data.train.pairs = config_lib.entry("data.train")
    if arg == "smoke":
        return config_lib.smoke(config)
    config.model.name = f"{arg}"
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    return written(tmp_path / "config.py", CONFIG)


def written(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def test_overrides_reach_the_config(config_file):
    config = load_config(
        config_file,
        ["--config.optim.lr=3e-4", "--config.data.train.pairs.path=a.csv",
         "--config.optim.freeze=image/", '--config.data.train.pairs.caption=["a","b"]',
         "--config.data.augment.crop_scale=0.5,1",
         "--config.model.logit.bias=-10", "--config.log.tensorboard=false", "--config.seed=1",
         "--config.seed=2"],
    )  # fmt: skip
    assert config.optim.lr == 3e-4
    assert config.data.train.pairs.path == "a.csv"
    assert config.optim.freeze == ("image/",)
    assert config.data.train.pairs.caption == "a,b"
    assert config.data.augment.crop_scale == (0.5, 1.0)
    assert config.model.logit.bias == -10.0
    assert config.log.tensorboard is False
    assert config.seed == 2
    assert config.is_locked
    assert load_config(config_file, ["--config.model.logit.bias=None"]).model.logit.bias is None


BAD = {
    "no value": ("seed", r"--config\.seed: write --config\.KEY=VALUE\."),
    "unknown key": ("optim.lrate=1", r"optim\.lrate: there is no such key; .* config\.optim\.lr\."),
    "unknown key of a kind": (
        "objectives.clip.implementations=ring",
        r"nearest is config\.objectives\.clip\.implementation",
    ),
    "section": ("optim=1", r"config\.optim: there is no such key"),
    "type": ("total_steps=5.5", r"config\.total_steps='5\.5' must be an integer of 1 or more"),
    "bool": ("log.tensorboard=1", r"config\.log\.tensorboard='1' must be true or false \("),
    "tuple": (
        "data.text_lengths=a,b",
        r"text_lengths='a,b' must be a tuple of integers, each of 1",
    ),
    "order": ("data.augment.crop_scale=1,0.5", "a tuple of 2 numbers, each above 0, in ascending"),
    "choice": (
        "objectives.clip.implementation=rings",
        r"one of auto, dense, ring \(nearest: ring\)",
    ),
    "pattern": ("optim.freeze=image/[", "must be a tuple of regular expressions"),
    "no such entry": (
        "data.train.other.path=x",
        r"config\.data\.train\.other\.path=x: the config has no config\.data\.train\.other; add",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_overrides_are_one_sentence(config_file, case):
    override, message = BAD[case]
    with pytest.raises(UserError, match=message):
        load_config(config_file, [f"--config.{override}"])


def test_an_objectives_option_is_set_where_the_config_leaves_its_default(config_file):
    config = load_config(config_file, ["--config.objectives.clip.implementation=ring"])
    assert config.objectives.clip.implementation == "ring"


def test_argument_reaches_get_config(config_file):
    assert load_config(f"{config_file}:smoke").total_steps == 6
    assert load_config(config_file).model.name == "None"
    assert load_config(f"{config_file}:").model.name == ""
    assert load_config(f"{config_file}:org/name:v2").model.name == "org/name:v2"


@pytest.mark.parametrize(
    "folder", ["a b", "[lr=1e-3]", "~", "100%25", "c:d", "x.py:y", "größe", "a.b", "*?", "a,b"]
)
def test_paths_are_literal(folder, tmp_path, monkeypatch):
    file = written(tmp_path / folder / "my config.py", CONFIG)
    assert load_config(file).model.name == "None"
    assert load_config(f"{file}:an argument").model.name == "an argument"
    monkeypatch.chdir(tmp_path)
    assert load_config(f"./{folder}/my config.py:x").model.name == "x"


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "~" / "mine.py", CONFIG)
    assert load_config("~/~/mine.py:x").model.name == "x"  # the second one is a name


def test_a_file_that_is_not_there(config_file):
    with pytest.raises(
        UserError, match=r"^--config=nowhere\.py:x: there is no file nowhere\.py\.$"
    ):
        load_config("nowhere.py:x")
    with pytest.raises(UserError, match=r"there is no file .*config\.p\.$"):
        load_config(config_file.removesuffix("y"))


BROKEN = {
    "no get_config": ("", r"the file defines no get_config\(arg\)"),
    "syntax": ("x = (\n", r"broken\.py, line 1: '\(' was never closed"),
    "import": ("\nimport nosuchmodule", r"line 2: No module named 'nosuchmodule', neither beside"),
    "name of a module": ("from mmjax import nosuch", r"line 1: cannot import name 'nosuch'"),
    "no argument": ("def get_config(): pass", r"its get_config takes no argument 'x'"),
    "nothing given": ("def get_config(arg): pass", "gives a NoneType, not a ConfigDict"),
    "unknown section": (
        "from mmjax import config\ndef get_config(arg):\n  c = config.default()\n  c.opt.lr = 1",
        r"broken\.py, line 4: .*opt",
    ),
    "type": (
        "from mmjax import config\ndef get_config(arg):\n  c = config.default()\n  c.optim.lr = ''",
        r"broken\.py, line 4: .*lr",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence(case, tmp_path):
    text, message = BROKEN[case]
    file = written(tmp_path / "broken.py", text)
    with pytest.raises(UserError, match=message) as raised:
        load_config(f"{file}:x")
    assert str(raised.value).startswith(f"--config={file}: ")
    assert "\n" not in str(raised.value)


def test_an_error_of_the_authors_own_keeps_its_traceback(tmp_path):
    file = written(tmp_path / "own.py", "def get_config(arg=None): return {}['key']")
    with pytest.raises(KeyError, match="key"):
        load_config(file)


def test_the_authors_user_error_is_theirs(tmp_path):
    text = (
        "from mmjax.errors import UserError\ndef get_config(arg=None): raise UserError('No data.')"
    )
    with pytest.raises(UserError, match=r"^No data\.$"):
        load_config(written(tmp_path / "own.py", text))


IMPORTS = """
import base
from base import get
def get_config(arg=None):
    import late
    return get(late.NAME)
"""
BASE = CONFIG.replace("def get_config(arg=None):", "def get(arg=None):")


def two_configs(tmp_path):
    """Two folders whose modules have the same names, and other contents."""
    files = []
    for name in ("one", "two"):
        files.append(written(tmp_path / name / "mine.py", IMPORTS))
        written(tmp_path / name / "base.py", BASE.replace("{arg}", f"{{arg}} {name}"))
        written(
            tmp_path / name / "late.py", f"from package.part import NAME as X\nNAME = X + '{name}'"
        )
        written(tmp_path / name / "package" / "part.py", f"NAME = 'part {name} '")
        written(tmp_path / name / "package" / "__init__.py", "")
    return files


def test_a_config_imports_what_lies_beside_it_and_no_other_configs(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    for name in ("base", "late"):
        written(elsewhere / f"{name}.py", "NAME = get = None")
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    one, two = two_configs(tmp_path)
    import base as of_elsewhere  # is in sys.modules before

    before = dict(sys.modules)
    for _ in range(2):
        assert load_config(one).model.name == "part one one one"
        assert load_config(two).model.name == "part two two two"
    assert sys.modules["base"] is of_elsewhere
    assert {"late", "package", "package.part", "config_mine"}.isdisjoint(
        sys.modules.keys() - before
    )
    assert sys.path[0] == str(elsewhere)
    del sys.modules["base"]


def test_a_neighbour_of_one_config_is_none_of_another(tmp_path):
    one, _ = two_configs(tmp_path)
    load_config(one)
    alone = written(tmp_path / "alone" / "mine.py", IMPORTS)
    with pytest.raises(UserError, match=r"line 2: No module named 'base', neither beside the file"):
        load_config(alone)


def test_a_function_may_import_a_neighbour_when_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sources, "KINDS", {**sources.KINDS})
    registered = """
from mmjax.data import sources
@sources.register("late")
def opened(spec, name):
    import lazily
    return lazily.VALUE
"""
    written(tmp_path / "lazily.py", "VALUE = 7")
    load_config(written(tmp_path / "mine.py", CONFIG + registered))
    assert sources.KINDS["late"].open(None, "") == 7
    del sys.modules["lazily"]


def test_modules_of_mmjax_that_lie_beside_a_config_stay(tmp_path):
    """As where a config lies in the folder of a clone, or another clone beside it."""
    written(tmp_path / "mmjax" / "__init__.py", "raise AssertionError")
    import mmjax

    assert load_config(written(tmp_path / "mine.py", CONFIG)).model.name == "None"
    assert sys.modules["mmjax"] is mmjax


def test_a_source_that_a_config_registers_reaches_worker_processes(tmp_path, monkeypatch):
    """Its class is in a module that a worker cannot import, and beside it another one."""
    monkeypatch.setattr(sources, "KINDS", {**sources.KINDS})
    written(tmp_path / "tones.py", "COUNT = 12\ndef caption(i): return f'the tone {i}'\n")
    file = written(
        tmp_path / "mine.py",
        """
import tones
from mmjax import config as config_lib
from mmjax.data import Record, sources
from mmjax.data.records import Texts

@sources.register("tones")
class Tones:
    def __init__(self, spec, name):
        self.name, self.skipped = name, {}
    def __len__(self):
        return tones.COUNT
    def captions(self, i):
        return (tones.caption(i),)
    def __getitem__(self, i):
        return Record(str(i), {"text": Texts(self.captions(i))})

def get_config(arg=None):
    config = config_lib.default()
    config.data.train.x = config_lib.entry("data.train", path="x", kind="tones")
    return config
""",
    )
    (source,) = sources.open_sources(load_config(file).data.train)
    script = "import cloudpickle, sys; print(cloudpickle.load(sys.stdin.buffer).captions(1))"
    sent = cloudpickle.dumps(source)  # as grain sends it
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True)
    assert done.stdout == b"('the tone 1',)\n", done.stderr[-2000:]
