"""Reads a config file, Python with `get_config(arg) -> ConfigDict`, and what a command sets."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from mmjax import shipped
from mmjax.errors import UserError
from mmjax.paths import typed, typed_values
from mmjax.values import nearest

_folders: list[str] = []  # of the configs that were read
_INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def load_config(file_and_arg: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file or recipe with `--config.KEY=VALUE` applied, complete and locked.

    It is named `FILE[:ARG]`, or `NAME[:ARG]` of a recipe that comes with mmjax. The path is taken
    literally but for a leading `~`; FILE is the longest part before a `:` that is a file. The file
    may import modules that lie beside it, whatever else has their names.

    Raises:
      UserError: no such file, no get_config in it, an import that fails, an unknown key, or a value
        of another type or outside of its range.
    """
    from mmjax import config as config_lib

    file, arg = _split(file_and_arg)
    with _importable(file.absolute().parent):
        config = config_lib.complete(_call(_module(file), file, arg))
    for override in overrides:
        path, equals, text = override.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{override}: write --config.KEY=VALUE.")
        config_lib.set_key(config, path, text)
    return typed_values(config).lock()


def _split(file_and_arg: str) -> tuple[Path, str | None]:
    """The file, or that of a recipe, and its argument; UserError: there is none."""
    ends = [at for at, letter in enumerate(file_and_arg) if letter == ":"]
    for end in [len(file_and_arg), *reversed(ends)]:
        path = Path(typed(file_and_arg[:end]))
        if path.is_file():
            return path, file_and_arg[end + 1 :] if end in ends else None
    name, colon, arg = file_and_arg.partition(":")
    recipes = shipped.recipes()
    if name in recipes:
        return recipes[name], arg if colon else None
    file, suffix, _ = file_and_arg.partition(".py:")
    file += suffix.rstrip(":")
    stem = Path(file).stem
    if "/" not in name and not file.endswith(".py"):
        raise UserError(
            f"--config={file_and_arg}: there is no file or recipe {name}; the nearest recipe is "
            f"{nearest(name, recipes)}."
        )
    hint = f"; the recipe of that name is --config={stem}" if stem in recipes else ""
    raise UserError(f"--config={file_and_arg}: there is no file {file}{hint}.")


def _module(file: Path) -> ModuleType:
    name = f"config_{file.stem}"  # is no other module's
    spec = importlib.util.spec_from_file_location(name, file.absolute())
    if spec is None or spec.loader is None:
        raise UserError(f"--config={file}: a config is a Python file, NAME.py.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _named(file):
        spec.loader.exec_module(module)
    return module


def _call(module: ModuleType, file: Path, arg: str | None) -> ConfigDict:
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"--config={file}: the file defines no get_config(arg).")
    args = () if arg is None else (arg,)
    try:
        inspect.signature(get_config).bind(*args)
    except TypeError as error:
        given = "needs an argument, FILE:ARG" if arg is None else f"takes no argument {arg!r}"
        raise UserError(f"--config={file}: its get_config {given}.") from error
    with _named(file):
        config = get_config(*args)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={file}: get_config gives a {type(config).__name__}, not a ConfigDict; start "
            "it from mmjax.config.default()."
        )
    return config


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """Says in one sentence what the file's author can mend: syntax, imports, keys of a ConfigDict.

    Another exception is one of the author's own code, and its traceback tells most.
    """
    try:
        yield
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise UserError(f"--config={file}: {where}: {error.msg}.") from error
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        where = ", neither beside the file nor installed" if absent else ""
        raise UserError(f"--config={file}: {_line_of(error)}{error}{where}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "ml_collections" not in Path(frames[-1].filename).parts:
            raise
        said = " ".join(str(error.args[0]).split()).rstrip(".")
        raise UserError(f"--config={file}: {_line_of(error)}{said}.") from error


def _line_of(error: BaseException) -> str:
    """Where in the author's code an exception comes from."""
    package = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and package not in file.parents and not _is_installed(str(file)):
            return f"{file}, line {frame.lineno}: "
    return ""


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Makes the modules in a folder importable before all others of their names.

    Afterwards `sys.modules` is as it was: another config may have neighbours of the same names, and
    data workers get by value what is defined in modules that nobody can import. The folder stays
    the last one to search, for functions that import when they are called.
    """
    place, beside = str(folder), {path.stem for path in folder.iterdir()}
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if (top := name.partition(".")[0]) in beside and top != "mmjax"
        if not _is_installed(_file_of(top)) and Path(_file_of(top)).parent != folder
    }
    for name in hidden:
        del sys.modules[name]
    before, path = set(sys.modules), [entry for entry in sys.path if entry not in _folders]
    sys.path[:] = [place, *path]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        tops = {name.partition(".")[0] for name in sys.modules.keys() - before} - before
        mine = {top for top in tops if Path(_file_of(top)).parent == folder}
        for name in [name for name in sys.modules if name.partition(".")[0] in mine]:
            del sys.modules[name]
        sys.modules.update(hidden)
        if place not in (*path, *_folders):
            _folders.append(place)
        sys.path[:] = [*path, *_folders]


def _file_of(top: str) -> str:
    """The file of a module that is not in a package, or the folder of a package; "" if none."""
    module = sys.modules.get(top)
    packages = list(getattr(module, "__path__", ()))
    return str(packages[0]) if packages else getattr(module, "__file__", None) or ""


def _is_installed(file: str) -> bool:
    """Whether a file, or none, is of Python or of an installed package."""
    return not file or any(Path(place) in Path(file).parents for place in _INSTALLED)
