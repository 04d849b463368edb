"""Imports go down: a module imports its own package and those of the floors below (DESIGN)."""

import ast
from pathlib import Path

import mmjax

ROOT = Path(mmjax.__file__).parent
FLOORS = (
    ("errors",),
    ("paths", "machine", "values", "shipped", "terminal", "examples"),
    ("schema", "params"),
    ("parallel",),
    ("data",),
    ("models",),
    ("objectives",),
    ("core",),
    ("runs",),
    ("interop",),
    ("inference", "inputs"),
    ("pretrained",),
    ("loading",),
    ("evaluation",),
    ("teachers",),
    ("config",),
    ("config_check", "config_file"),
    ("recipes",),
    ("training",),
    ("planning", "reporting", "datatools", "checkup", "embedding"),
    ("video",),
    ("options",),
    ("completion",),
    ("cli",),
    ("__main__", "__init__"),
)
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
# Module → (what it imports from above, why it still does). An entry that is needless fails, too.
KNOWN: dict[str, tuple[str, str]] = {}


def package(module: str) -> str:
    """The part of a module's name that has a floor."""
    return module.split(".")[1]


def imports(tree: ast.AST):
    """The modules of mmjax that are imported anywhere in a module, in functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("mmjax."))
        elif isinstance(node, ast.ImportFrom) and node.module == "mmjax":
            yield from (f"mmjax.{a.name}" for a in node.names if a.name in FLOOR)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmjax."):
            yield node.module


def test_imports_go_down():
    offences = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("mmjax", *path.relative_to(ROOT).with_suffix("").parts))
        own = package(module)
        assert own in FLOOR, f"{module} has no floor: name it in FLOORS"
        for imported in imports(ast.parse(path.read_text())):
            other = package(imported)
            if other != own and FLOOR[other] >= FLOOR[own]:
                offences[module] = imported
    known = {module: imported for module, (imported, _) in KNOWN.items()}
    new = [f"{m} imports {i}" for m, i in offences.items() if known.get(m) != i]
    assert not new, "a module imports only what is below it: " + "; ".join(new)
    assert offences == known, "some of KNOWN is clean now: remove it there"
