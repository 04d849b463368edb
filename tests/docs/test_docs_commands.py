"""The commands in README and docs/ are right: they parse, and what they name exists.

A block of shell is read command by command: flags parse, config keys exist and take the value,
files of the repository exist. A command whose output is an error is checked to end with it.
"""

import ast
import itertools
import re
import shlex
from typing import NamedTuple

import pytest
from docs_pages import BLOCK, BLOCKS, OTHERS, PAGES, ROOT, Block, fresh

from mmjax import config as config_lib
from mmjax import evaluation, options, shipped
from mmjax.config_file import load_config
from mmjax.datatools.opening import spec_of
from mmjax.errors import UserError
from mmjax.evaluation.command import read_suite
from mmjax.interop import registry
from mmjax.parallel.hardware import parse_topology
from mmjax.schema import find

TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
LANGUAGES = {"python", "sh", "text", "yaml", ""}  # others are Sphinx's {…}
SUITES = [block for block in BLOCKS if block.language == "yaml"]


def test_every_block_is_of_a_known_language():
    odd = [str(b) for b in BLOCKS if b.language not in LANGUAGES and not b.language.startswith("{")]
    assert odd == []


@pytest.mark.parametrize("block", SUITES, ids=str)
def test_suites_are_right(block, tmp_path):
    (tmp_path / "suite.yaml").write_text(block.text)
    assert read_suite(str(tmp_path / "suite.yaml"))


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
    for page in (*OTHERS, *PAGES):
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
    words = words[: words.index(">")] if ">" in words else words  # into a file
    args, rest = options.parse(words)
    overrides = options.overrides(args, rest, words)
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
    elif args.door.startswith("data "):
        spec_of(args.path, options.keys(settings))
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


INLINE = re.compile(r"`(mmjax|python|pytest|make) ([^`]+)`")


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
    parser = options.parser()
    while nested := [a.choices for a in parser._actions if isinstance(a.choices, dict)]:
        if not words or words[0].startswith("-"):
            break
        assert words[0] in nested[0], words[0]
        parser, words = nested[0][words[0]], words[1:]
    known = {option for action in parser._actions for option in action.option_strings}
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    dashed = {flag.replace("_", "-") for flag in flags if not flag.startswith("--config.")}
    assert dashed <= known


def test_every_extra_is_documented():
    table = (ROOT / "docs/installation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == extras()
