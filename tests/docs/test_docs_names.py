"""What README and docs/ name exists: files, keys and links; generated pages have all there is."""

import importlib.util
import re

import pytest
from docs_pages import BLOCK, PAGES, ROOT

import mmjax
from mmjax import config as config_lib
from mmjax import options
from mmjax.data import sources

KEY = re.compile(r"`(?:--)?config\.(?!json)([a-z0-9_.]+)(?:=[^`]*)?`")
FILE = re.compile(
    r"[`(]((?:mmjax|configs|benchmarks|launch|tests|demo|docs)/[\w./-]+?)(?:::\w+)?[`)\s]"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [path for path in KEY.findall(text) if not is_key(path)]
    found = [[page.parent / link, ROOT / link] for link in links(text)]
    # The build copies notebooks/ into docs/.
    missing += [
        str(p)
        for p, top in found
        if not (p.exists() or ("docs/notebooks/" in str(p) and top.exists()))
    ]
    assert missing == []


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


def test_every_kind_of_source_is_named():
    """docs/guide/data.md says what a path may be; a kind that it does not know is not found."""
    text = (ROOT / "docs/guide/data.md").read_text(encoding="utf-8").lower()
    said = {"csv": "csv", "jsonl": "json lines", "tar": "tar shards", "text": "text file",
            "msrvtt": "msr-vtt"}  # fmt: skip
    # Other tests register kinds of their own.
    kinds = [name for name, kind in sources.KINDS.items() if kind.open.__module__[:6] == "mmjax."]
    assert [kind for kind in kinds if said.get(kind, kind) not in text] == []
    assert "tar" in kinds


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_have_every_key_and_kind(generate):
    text = generate.keys_page()
    for section, keys in config_lib.SECTIONS.items():
        assert f"## config.{section}".rstrip(".") + "\n" in text
        assert all(f"| `{key.name}` |" in text for key in keys)
    for section in ("model", "objectives", "evals"):
        table = generate.kinds_table(section)
        for kind in config_lib.kinds(section):
            assert re.search(rf"^\| `{kind}` \| \S.+ \|", table, re.MULTILINE)
            assert f"### {kind} ({section})\n" in text
    assert all(f"| `{kind}` |" in generate.sources_table() for kind in sources.KINDS)
    assert {"`AltCLIPModel`", "`convnext_base`"} <= {*re.findall("`.*?`", generate.weights_page())}


def test_generated_recipes_say_what_the_docstrings_do(generate):
    text = generate.recipes_page()
    for name in mmjax.list_recipes():
        assert f"\n## {name}\n" in text
    assert "| ViT-B/16 | `clip` | 32,768 | 2.62 B | Radford et al. 2021 | 70.2 % zero" in text


def test_generated_commands_are_found(generate):
    text = options.parser().format_help()
    assert {"train", "eval", "data"} <= set(generate.commands_in(text))
