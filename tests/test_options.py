"""One style of options: what holds for the parser of every command."""

import re
import shlex

import pytest

import mmjax
from mmjax import cli, examples, options
from mmjax import config as config_lib
from mmjax.config_file import load_config
from mmjax.data import sources
from mmjax.datatools import convert, dedup, inspect
from mmjax.errors import UserError
from mmjax.interop import FORMAT_NAMES, registry
from mmjax.video import benchmark, keyframes, search, summarize


def commands(parser, name=""):
    """Name → parser of every command that does something."""
    nested = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    if not nested:
        return {name: parser}
    return {
        long: found
        for part, sub in nested[0].items()
        for long, found in commands(sub, f"{name} {part}".strip()).items()
    }


COMMANDS = commands(options.parser())
EVERY = pytest.mark.parametrize("name", COMMANDS)


def options_of(name):
    return {a.option_strings[-1]: a for a in COMMANDS[name]._actions if a.option_strings}


def test_every_command_has_a_door_and_examples():
    assert set(COMMANDS) == set(cli._DOORS)
    assert {*COMMANDS, "data", "video"} == set(examples.EXAMPLES)
    assert {name: parser.get_default("door") for name, parser in COMMANDS.items()} == {
        name: name for name in COMMANDS
    }


@EVERY
def test_help_has_examples_that_are_right(name):
    """An example of the command itself, and of others, with options and keys that exist."""
    text = COMMANDS[name].format_help().partition("\nexample")[2]
    lines = re.findall(r"^  (mmjax .*|srun mmjax .*)$", text.replace("\\\n", ""), re.MULTILINE)
    words = [shlex.split(re.sub(r"^srun | > ~\S+$", "", line)) for line in lines]
    assert any(" ".join(w[1:]).startswith(name) for w in words)
    for _, *argv in words:
        args, rest = options.parse(argv)
        overrides = options.overrides(args, rest, argv)
        if (config := getattr(args, "config", "")) and not config.startswith("my/"):
            load_config(config, overrides)


@EVERY
def test_options_are_written_with_dashes_and_each_says_what_it_is(name):
    for option, action in options_of(name).items():
        assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", option)
        assert action.help
        assert action.nargs == 0 or action.choices or action.metavar


@EVERY
def test_what_reads_a_config_takes_its_keys(name):
    argv = [*name.split(), "--config.seed=1"]
    required = [a for a in COMMANDS[name]._actions if a.required]
    for action in required:
        value = next(iter(action.choices or ["x"]))
        argv.append("=".join([*action.option_strings[:1], value]))
    argv += ["--list"] if name == "launch" else []
    args, rest = options.parse(argv)
    if "--config" in options_of(name):
        assert options.overrides(args, rest, argv) == ["--config.seed=1"]
    else:
        with pytest.raises(UserError, match="unrecognized argument"):
            options.overrides(args, rest, argv)


MEANINGS = {
    "--config": r"a recipe of mmjax, or a Python file",
    "--data": r"what to evaluate on",
    "--distributed": r"one process of several",
    "--format": rf"of the files to write: {', '.join(FORMAT_NAMES)}",
    "--frames": r"frames of each video",
    "--json": r"write the numbers there, too",
    "--output": r"the (file|folder) to write",
    "--set": r"a key of the (evaluator|source), e\.g\. --set ",
    "--tokenizer": r"folder or hub name",
}


def test_an_option_means_the_same_in_every_command():
    seen = {}
    for name in COMMANDS:
        for option, action in options_of(name).items():
            if option in MEANINGS:
                assert re.match(MEANINGS[option], action.help), (name, option)
            elif option not in ("--help", "--workdir"):
                seen.setdefault(option, set()).add(action.help)
    assert {option: helps for option, helps in seen.items() if len(helps) > 1} == {}


def test_underscores_do_for_dashes():
    typed = ["data", "convert", "a", "b", "--to=tar", "--shard_size=3", "--label_offset", "-1"]
    args, rest = options.parse(typed)
    assert (args.shard_size, args.label_offset, rest) == (3, -1, [])
    _, rest = options.parse(["train", "--config.batch_size=3", "--batch_size=4"])
    assert rest == ["--config.batch_size=3", "--batch_size=4"]  # as they were typed


def test_the_formats_of_help_are_those_of_the_registry():
    assert {format.name for format in registry._FORMATS} == set(FORMAT_NAMES)
    text = COMMANDS["export"].format_help()
    assert all(name in text for name in FORMAT_NAMES)


FUNCTIONS = {
    "train": mmjax.train, "doctor": mmjax.doctor, "plan": mmjax.plan, "embed": mmjax.embed,
    "eval": mmjax.evaluate, "export": mmjax.export, "convert": mmjax.convert,
    "data inspect": inspect, "data dedup": dedup, "data convert": convert,
    "report": mmjax.report, "video keyframes": keyframes, "video summarize": summarize,
    "video search": search, "video benchmark": benchmark,
}  # fmt: skip
# What belongs to the terminal: how processes meet, keys as texts, and several calls at once.
OF_TERMINAL = {
    "help", "distributed", "coordinator", "processes", "process", "set", "keys", "allow_skips",
}  # fmt: skip
OF_PLAN = {"compare", "sweep", "print_shardings", "json"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_command_and_its_function_take_the_same(name):
    taken = {action.dest for action in COMMANDS[name]._actions} - OF_TERMINAL
    taken -= OF_PLAN if name == "plan" else set()
    function = FUNCTIONS[name]
    names = set(function.__annotations__) - {"return", "keys", "command"}
    assert taken == names
    assert "return" in function.__annotations__


def test_no_key_of_a_source_is_an_argument_of_a_data_tool():
    keys = {key.name for key in sources.KEYS} - {"path"}
    for function in (inspect, dedup, convert):
        assert not keys & set(function.__annotations__)
    assert "path" in {key.name for key in config_lib.ENTRIES["data.train"]}
