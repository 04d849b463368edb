"""The code in README and docs/ runs, its commands are right, and what the pages name is there.

A block of Python runs, in the order of its page, in a folder with the files that the pages speak
of. A block of shell is read command by command: flags parse, config keys exist and take the value,
files of the repository exist. A block that cannot run says why in a comment on the line before it:
<!-- not run: needs PyTorch -->.
"""

import ast
import doctest
import itertools
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
import tiny
from PIL import Image

import mmjax
from mmjax import cli, config_check, evaluation, models, shipped
from mmjax import config as config_lib
from mmjax.config_file import load_config
from mmjax.data import sources, train_tokenizer
from mmjax.datatools.command import read_spec
from mmjax.errors import UserError
from mmjax.evaluation.command import read_suite
from mmjax.interop import registry
from mmjax.parallel.hardware import parse_topology
from mmjax.planning.command import check
from mmjax.schema import find

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = [page for page in PAGES if "generated" not in page.parts]
SHELL = (ROOT / "CONTRIBUTING.md", ROOT / "launch/README.md", ROOT / "benchmarks/README.md", *PAGES)
BLOCK = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
LANGUAGES = {"python", "sh", "text", "yaml", ""}  # others are Sphinx's {…}
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        runs = not NOT_RUN.search(text[: match.start()])
        found.append(Block(page, line, match[2], match[3], runs))
    return found


BLOCKS = [block for page in dict.fromkeys(SHELL) for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.page in PAGES and block.language == "python"]


def test_every_block_is_of_a_known_language():
    odd = [str(b) for b in BLOCKS if b.language not in LANGUAGES and not b.language.startswith("{")]
    assert odd == []


# Python


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages speak of: images, tables of them, and weights where they have a run."""
    folder = tmp_path_factory.mktemp("docs")
    texts = [f"a {name}" for name in ("cat", "dog", "owl", "fox")]
    rows = ["image,caption"]
    for number, text in enumerate(texts):
        name = f"{text[2:]}.jpg"
        Image.new("RGB", (40, 40), (number * 60, 90, 200)).save(folder / name)
        rows.append(f"{name},{text}")
    for name in ("captions.csv", "held_out.csv"):
        (folder / name).write_text("\n".join(rows) + "\n")
    words = train_tokenizer(texts * 2, 540)
    config = tiny.config()
    config.model.text.update(vocab_size=words.vocab_size, unroll=False)
    model = models.from_config(config.model)
    registry.export(folder / "runs/mine", "huggingface", config=config, params=tiny.params(model),
                    tokenizer=words)  # fmt: skip
    return folder


@pytest.fixture
def quick():
    """Compiles in a part of the time; what the blocks compute stays the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("page", dict.fromkeys(b.page for b in PYTHON), ids=lambda p: p.stem)
def test_python_runs(page, folder, quick, monkeypatch):
    """A page's blocks in order, with their names; each that sets keys sets right ones."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"entry": config_lib.entry}
    for block in PYTHON:
        if block.page != page:
            continue
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if not block.runs:
            continue
        config = names["config"] = fresh()
        exec(code, names)
        if "config." in block.text and "get_config" not in block.text:
            check_keys(config)
        if get_config := names.pop("get_config", None):
            for arg in (None, "smoke"):
                check(get_config(arg))


def fresh() -> Any:
    """A config to set keys of, such as those of most recipes."""
    return config_lib.complete(load_config(str(ROOT / "configs/pairs.py")))


def check_keys(config: Any) -> None:
    """UserError: a key does not exist, or does not take its value."""
    for path, value in config_check.leaves(config):
        if value is not None:
            config_lib.key_of(path, config).check(path, value)


API = ROOT / "docs/reference/api.md"
DOCUMENTED = re.findall(
    r"auto(?:function|class|module):: ([\w.]+)", API.read_text(encoding="utf-8")
)


def test_the_public_functions_are_documented():
    functions = {f"mmjax.{name}" for name in dir(mmjax) if callable(getattr(mmjax, name))}
    documented = {id(pkgutil.resolve_name(name)) for name in DOCUMENTED}
    assert [f for f in functions if id(pkgutil.resolve_name(f)) not in documented] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_of_docstrings_are_right(name, quick):
    thing = pkgutil.resolve_name(name)
    examples = doctest.DocTestFinder(recurse=True).find(thing, name, globs={})
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert thing.__doc__
    assert runner.failures == 0


SUITES = [block for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("block", SUITES, ids=str)
def test_suites_are_right(block, tmp_path):
    (tmp_path / "suite.yaml").write_text(block.text)
    assert read_suite(str(tmp_path / "suite.yaml"))


# Shell


class Command(NamedTuple):
    """The words of a command, where it is, and the error that it is said to end with."""

    where: str
    words: list[str]
    error: str = ""


def commands(block: Block) -> list[Command]:
    """Each command of a block; of a transcript, what follows its prompts."""
    text = block.text.replace("\\\n", " ")
    prompts = re.findall(r"^\$ (.*)\n(?:mmjax: (.*))?", text, re.MULTILINE)
    if not prompts and block.language != "text":
        prompts = [(line, "") for line in text.splitlines() if line.strip()]
    return [Command(str(block), shlex.split(c, comments=True), error) for c, error in prompts]


INDENTED = re.compile(r"^    ((?:\w+=\S+ )*(?:mmjax|python|pip|make|pytest) .*)$", re.MULTILINE)


def written() -> list[Command]:
    """Every command in the pages, with where it is: in blocks and in the text."""
    found = []
    for block in BLOCKS:
        if block.language in ("sh", "text", "") and block.runs:
            found += commands(block)
    for page in SHELL:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        found += [Command(page.name, shlex.split(command)) for command in INDENTED.findall(text)]
    return found


COMMANDS = written()


def test_the_pages_have_commands():
    assert sum("mmjax" in command.words for command in COMMANDS) > 30


@pytest.mark.parametrize(
    "command", COMMANDS, ids=[f"{c.where} {' '.join(c.words)[:40]}" for c in COMMANDS]
)
def test_commands_are_right(command):
    if command.error:
        with pytest.raises(UserError) as raised:
            check_command(command.words)
        assert str(raised.value) == command.error
    else:
        check_command(command.words)


def check_command(words: list[str]) -> None:
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] == "srun"):
        words = words[1:]
    while "&&" in words:
        check_command(words[: words.index("&&")])
        words = words[words.index("&&") + 1 :]
    if "--" in words and "mmjax" in words:  # a launcher and what it launches
        check_command(words[words.index("--") + 1 :])
        words = words[: words.index("--")]
    check = {"mmjax": check_mmjax, "make": check_make, "pip": check_pip}.get(words[0], check_files)
    check(words if check is check_files else words[1:])


def check_make(words: list[str]) -> None:
    assert {word for word in words if "=" not in word} <= set(TARGETS)


def check_pip(words: list[str]) -> None:
    """The extras exist."""
    known = extras()
    for named in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(named.split(",")) <= known


def extras() -> set[str]:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (found,) = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extras_require"
    ]
    return {ast.literal_eval(key) for key in found.keys}


def check_files(words: list[str]) -> None:
    """Scripts, modules and tests exist."""
    for flag, word in itertools.pairwise(["", *words]):
        if flag == "-m" and word.startswith(("mmjax", "demo")):
            assert (ROOT / (word.replace(".", "/") + ".py")).is_file(), word
        elif word.startswith(("benchmarks/", "launch/", "tests/", "demo/", "configs/")):
            assert (ROOT / word.partition("::")[0]).exists(), word


def check_mmjax(words: list[str]) -> None:
    """Flags parse; config files, keys, kinds, formats and topologies exist."""
    words = [word for word in words if word != "…"]
    args, rest = cli._parser().parse_known_args(words)
    overrides = cli._overrides(args, rest, words)
    for file in filter(None, (getattr(args, "config", None), getattr(args, "compare", None))):
        name, _, arg = file.partition(":")
        name = name.removeprefix("configs/").removesuffix(".py")
        if name in shipped.recipes() or file.startswith("configs/"):
            load_config(f"{name}:smoke" if arg == "smoke" else name, overrides)
        else:
            check_overrides(overrides)
    if getattr(args, "topology", None):
        parse_topology(args.topology)
    if getattr(args, "format", None):
        assert args.format in registry.FORMATS
    settings = getattr(args, "set", [])
    if getattr(args, "task", None) and args.task != "suite":
        for setting in settings:
            key, _, value = setting.partition("=")
            find(evaluation.KINDS[args.task].keys, f"evals.x.{key}").parse(f"evals.x.{key}", value)
    elif hasattr(args, "data_run"):
        read_spec(args.path, settings)
    else:
        assert not settings


def check_overrides(overrides: list[str]) -> None:
    """Keys of a config file that the page only speaks of, which may have any entries."""
    config = fresh()
    for override in overrides:
        path, _, text = override.removeprefix("--config.").partition("=")
        section, _, name = path.rpartition(".")[0].rpartition(".")
        if section in config_lib.ENTRIES and name not in config_lib.config_at(config, section):
            config_lib.config_at(config, section)[name] = config_lib.entry(section)
        config_lib.set_key(config, path, text)


# Names in the text

INLINE = re.compile(r"`(mmjax|python|pytest|make) ([^`]+)`")
KEY = re.compile(r"`(?:--)?config\.(?!json)([a-z0-9_.]+)(?:=[^`]*)?`")
FILE = re.compile(
    r"[`(]((?:mmjax|configs|benchmarks|launch|tests|demo|docs)/[\w./-]+?)(?:::\w+)?[`)\s]"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [path for path in KEY.findall(text) if not is_key(path)]
    missing += [link for link in links(text) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_sentences_are_right(page):
    """They may be cut short, so only the names of commands, flags and files are checked."""
    for program, rest in INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        words = shlex.split(" ".join(rest.split()).replace("…", ""))
        if program == "mmjax":
            check_flags(words)
        elif program == "make":
            check_make(words)
        else:
            check_files(words)


def check_flags(words: list[str]) -> None:
    parser = cli._parser()
    while nested := [a.choices for a in parser._actions if isinstance(a.choices, dict)]:
        if not words or words[0].startswith("-"):
            break
        assert words[0] in nested[0], words[0]
        parser, words = nested[0][words[0]], words[1:]
    known = {option for action in parser._actions for option in action.option_strings}
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert {flag for flag in flags if not flag.startswith("--config.")} <= known


def links(text: str) -> list[str]:
    """Files that a page links, shows or includes."""
    prose = BLOCK.sub("", text)
    found = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", prose)
    found += re.findall(r"^```\{include\} (\S+)", text, re.MULTILINE)
    return [link for link in found if "://" not in link and "generated/" not in link]


def is_key(path: str) -> bool:
    """Whether it is a key, a section, or of an entry with any name."""
    section, _, name = path.rpartition(".")
    if path in config_lib.SECTIONS or path in config_lib.ENTRIES:
        return True
    if any(key.name == name for key in config_lib.SECTIONS.get(section, ())):
        return True
    for parent, common in config_lib.ENTRIES.items():
        if path.startswith(f"{parent}."):
            entry, _, key = path.removeprefix(f"{parent}.").partition(".")
            every = [*common, *(k for keys in config_lib.kinds(parent).values() for k in keys)]
            return bool(entry) and (not key or any(k.name == key for k in every))
    return False


def test_every_extra_is_documented():
    table = (ROOT / "docs/installation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == extras()


def test_every_kind_of_source_is_named():
    """docs/guide/data.md says what a path may be; a kind that it does not know is not found."""
    text = (ROOT / "docs/guide/data.md").read_text(encoding="utf-8").lower()
    said = {"csv": "csv", "jsonl": "json lines", "tar": "tar shards", "text": "text file"}
    assert [kind for kind in sources.KINDS if said.get(kind, kind) not in text] == []
