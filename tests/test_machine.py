"""What a machine lacks is named as that, in real processes that lack it."""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from mmjax import cli, machine
from mmjax.data import open_source, storage
from mmjax.data.workers import read_ahead
from mmjax.errors import UserError

LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": ""}


def image():
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def write_shards(folder, count):
    folder.mkdir()
    for number in range(count):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for name, content in ((f"{number}.png", image()), (f"{number}.txt", b"a caption")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def write_folder(folder, count):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(image())
        (folder / f"{number}.txt").write_text("a caption")
    return folder


def write_parquet(folder, count):
    folder.mkdir()
    for number in range(count):
        rows = [{"image": image(), "caption": "a caption"}]
        pa.parquet.write_table(pa.Table.from_pylist(rows), folder / f"{number:05d}.parquet")
    return folder


def python(code, *arguments, prefix=(), limit=None, cwd=None, **environ):
    """(status, what it printed) of a process that runs `code`; a variable of None is not set."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu"} | environ
    variables = {name: value for name, value in variables.items() if value is not None}

    def lower():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, arguments)], env=variables, cwd=cwd,
        preexec_fn=lower, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout.decode("utf-8", "replace")


MMJAX = "import sys; from mmjax import cli; cli.main(sys.argv[1:])"
READ = """
import sys
from mmjax.data import open_source
source = open_source({"path": sys.argv[1]})
import os
held = [open(os.devnull) for _ in range(int(sys.argv[2]))]
print(sum(len(source[n].parts["image"]) > 0 for n in range(len(source))), "read")
"""


@pytest.mark.parametrize("number", sorted(machine._LACKS))
def test_problems_are_found_in_what_was_raised_from_them_and_in_quotes(number):
    said = machine._LACKS[number]
    error = OSError(number, os.strerror(number), "x/y")
    assert machine.problem(error) == f"{said} (x/y)"
    quoted = ValueError(f"UNKNOWN: [OS error {number}: {os.strerror(number)}] opening x")
    assert machine.problem(quoted) == said
    raised = RuntimeError("it failed")
    raised.__cause__ = error
    assert machine.problem(raised) == f"{said} (x/y)"


def test_bad_data_is_no_problem_of_the_machine():
    for error in (ValueError("no JSON"), FileNotFoundError(errno.ENOENT, "x"), EOFError(),
                  OSError(errno.EIO, "x"), PermissionError(errno.EACCES, "x"),
                  UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates")):  # fmt: skip
        assert machine.problem(error) == ""
    assert "not enough memory" in machine.problem(MemoryError())
    assert "ulimit -u" in machine.problem(RuntimeError("can't start new thread"))


def test_many_shards_are_read_with_few_open_files(tmp_path):
    shards = write_shards(tmp_path / "shards", 100)
    assert python(READ, shards, 20, limit=64) == (0, "100 read\n")  # others hold some, too


@pytest.mark.parametrize("write", [write_shards, write_folder, write_parquet])
def test_too_many_open_files_are_no_bad_records(tmp_path, write):
    """Every file that can be opened no more is the machine's fault, wherever it strikes."""
    data = write(tmp_path / "data", 20)
    source, count = open_source({"path": str(data)}), 20
    assert len(source) == count
    storage._handle.cache_clear()  # those of other tests would be given back, and suffice
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2,
                                                    before[1]))  # fmt: skip
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for read in (lambda: [source[n] for n in range(count)],
                     lambda: open_source({"path": str(data)})):  # fmt: skip
            with pytest.raises(UserError, match=r"too many open files .*ulimit -n"):
                read()
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be():
    code = """
import resource
from mmjax import machine
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
machine.prepare()
print(machine.open_files(), [p for p in machine.problems() if "open at once" in p])
"""
    status, said = python(code)
    assert said == "300 ['no more than 300 files can be open at once: ulimit -n 4096']\n", status


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_console_takes_any_text(encoding):
    code = """
from mmjax import machine
from rich.console import Console
machine.prepare()
print("→ 2 × 3 … é 日本 \\udcff")
Console(soft_wrap=True).print("→ mesh 2 × 3 日本")
"""
    status, said = python(code, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert status == 0, said
    assert "Traceback" not in said
    if encoding == "ascii":
        assert said.splitlines()[0] == r"-> 2 x 3 ... \xe9 \u65e5\u672c \udcff"
    if encoding == "utf-8":
        assert said.splitlines()[1] == "→ mesh 2 × 3 日本"


def test_names_and_captions_on_a_console_of_ascii(tmp_path):
    folder = write_folder(tmp_path / "日本→é", 2)
    (folder / "broken é.png").write_bytes(b"no picture")
    (folder / "broken é.txt").write_text("ein Bild, größer", encoding="utf-8")
    status, said = python(
        MMJAX, "data", "inspect", folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert status == 0, said
    assert "Traceback" not in said
    assert r"\u65e5\u672c->\xe9" in said


# Python itself does not start in such a locale if the path of the clone, which is in a .pth file of
# the environment, is not of ASCII.
needs_ascii_clone = pytest.mark.skipif(
    not machine.__file__.isascii(), reason="the path of this clone is not of ASCII"
)


@needs_ascii_clone
def test_file_names_beyond_the_locale_are_no_missing_images(tmp_path):
    """In a locale of ASCII no file is called é.png: not the data is wrong, but the locale."""
    (tmp_path / "é.png").write_bytes(image())
    (tmp_path / "t.csv").write_text("image,caption\né.png,a caption\n", encoding="utf-8")
    status, said = python(MMJAX, "data", "inspect", tmp_path / "t.csv", **LOCALE)
    assert status == 2, said
    assert "cannot be a file name in this locale (ascii), set PYTHONUTF8=1" in said
    assert "Traceback" not in said


PROBLEMS = "from mmjax import machine; machine.prepare(); print(*machine.problems(), sep='\\n')"


def test_homes_and_caches(tmp_path):
    cases = [
        ({"HOME": "/proc/1/x", "XDG_CACHE_HOME": None}, "the cache /proc/1/x/.cache/mmjax cannot"),
        ({"XDG_CACHE_HOME": ""}, "XDG_CACHE_HOME is '', not a whole path"),
        ({"XDG_CONFIG_HOME": "x"}, "XDG_CONFIG_HOME is 'x', not a whole path"),
        ({"TMPDIR": str(tmp_path / "gone")}, f"TMPDIR={tmp_path / 'gone'} cannot be written"),
        ({"PYTHONIOENCODING": "latin-1"}, "stdout is iso8859-1, signs beyond it are replaced"),
    ]
    for environ, expected in cases:
        status, said = python(PROBLEMS, cwd=tmp_path, **environ)
        assert status == 0, said
        assert expected in said
    assert not list(tmp_path.iterdir())  # no folder called mmjax, x or ~


@needs_ascii_clone
def test_a_locale_of_ascii_is_a_problem():
    status, said = python(PROBLEMS, **LOCALE)
    assert (status, "file names are ascii, others cannot be opened" in said) == (0, True), said


needs_unshare = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="namespaces of one's own are not allowed here",
)


@needs_unshare
def test_nobody_without_a_home(tmp_path):
    """A container's --user 12345: no entry in the list of users, and HOME is not set."""
    prefix = ("unshare", "--user", "--map-user=12345")
    status, said = python(PROBLEMS, prefix=prefix, cwd=tmp_path, HOME=None, XDG_CACHE_HOME=None)
    assert status == 0, said
    assert "there is no home folder: set HOME" in said
    assert "user 12345 has no name" in said
    shards = write_shards(tmp_path / "shards", 2)
    status, said = python(
        MMJAX, "data", "inspect", shards, prefix=prefix, cwd=tmp_path, HOME=None,
        XDG_CACHE_HOME=None,
    )  # fmt: skip
    assert status == 0, said
    status, said = python(MMJAX, "data", "inspect", "~/x", prefix=prefix, cwd=tmp_path, HOME=None)
    assert (status, "has no home folder; set HOME" in said) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


WORKERS = """
import sys
import numpy as np
from mmjax import machine
from mmjax.data.workers import read_ahead
from mmjax.errors import UserError
def load(step):
    return {"x": np.full(int(sys.argv[1]), step, np.uint8)}
if __name__ == "__main__":
    try:
        print([b["x"][0] for b in read_ahead(load, 0, 4, workers=2, prefetch=1)][-1], "read")
    except UserError as error:
        print(error)
"""


@pytest.mark.long
@needs_unshare
@pytest.mark.parametrize("mount", ["mount -t tmpfs -o size=1m none /dev/shm",
                                   "mount -t tmpfs -o ro none /dev/shm"])  # fmt: skip
def test_little_shared_memory_is_named(tmp_path, mount):
    (tmp_path / "w.py").write_text(WORKERS)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable,
         tmp_path / "w.py", "2000000"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "MB of shared memory for batches" in done.stdout, done.stderr
    assert "free in /dev/shm" in done.stdout
    assert "set config.data.workers=0" in done.stdout


def test_workers_are_not_started_without_shared_memory(monkeypatch):
    monkeypatch.setattr(machine, "shared_bytes", lambda: 0)
    batches = {"x": np.zeros(4, np.uint8)}
    with pytest.raises(UserError, match=r"0\.0 MB are free in /dev/shm.*workers=0"):
        read_ahead(lambda step: batches, 0, 4, workers=2, prefetch=1)
    assert len(list(read_ahead(lambda step: batches, 0, 4, workers=0, prefetch=1))) == 4


@pytest.mark.long
@needs_unshare
@pytest.mark.parametrize(
    ("mount", "expected"),
    [("-o ro", "the file system is read-only"), ("-o size=64k", "no space left on the disk")],
)
def test_outputs_on_a_disk_that_is_full_or_read_only(tmp_path, mount, expected):
    folder = write_folder(tmp_path / "data", 40)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f'mount -t tmpfs {mount} none "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, disk, sys.executable, "-m", "mmjax", "data",
         "convert", folder, disk / "out", "--to=tar"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error():
    command = f"'{sys.executable}' -m mmjax train --keys | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)
    assert done.stdout.startswith("0 switches off")


def test_what_strikes_anywhere_is_one_sentence(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("deep inside") from OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setitem(cli._DOORS, "models", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("mmjax: too many open files for this process")


def test_the_doctor_says_all_of_it(tmp_path):
    file = tmp_path / "doctor.json"
    status, said = python(
        MMJAX, "doctor", f"--json={file}", limit=200, XDG_DATA_HOME="", PYTHONIOENCODING="latin-1",
        JAX_NUM_CPU_DEVICES="1",
    )  # fmt: skip
    assert status == 1, said
    lacking = json.loads(file.read_text())["hosts"][0]["lacking"]
    assert any("no more than 200 files" in problem for problem in lacking)
    assert any("XDG_DATA_HOME is ''" in problem for problem in lacking)
    assert all(problem in said.replace("\n", "") for problem in lacking)


@pytest.mark.parametrize("file", ["accel0", "vfio/0", "nvidia0", "nvidiactl", "kfd", None])
def test_jax_is_told_that_there_is_no_accelerator(file, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TPU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "")  # so that it is put back in the end
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(machine, "find_spec", lambda name: name == "libtpu")
    (tmp_path / "vfio").mkdir()
    if file:
        (tmp_path / file).touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")  # as JAX does, for what it starts
    machine.prepare()
    assert os.environ.get("JAX_PLATFORMS") == (None if file else "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    machine.prepare()
    assert os.environ["JAX_PLATFORMS"] == "tpu"
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(machine, "find_spec", lambda name: None)  # no libtpu is installed
    machine.prepare()
    assert "JAX_PLATFORMS" not in os.environ
    monkeypatch.setattr(machine, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setenv("TPU_WORKER_ID", "0")  # of a TPU host in a cluster
    machine.prepare()
    assert "JAX_PLATFORMS" not in os.environ
