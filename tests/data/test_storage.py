"""Remote shards: a web server on this machine, fsspec's memory; slow, failing and gone."""

import contextlib
import functools
import http.server
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from pictures import pair, write_shards, write_tar

from mmjax.data import open_source, storage
from mmjax.data.records import BadRecord
from mmjax.errors import UserError


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with byte ranges; counts requests, and fails or dawdles when told to."""

    requests: list[str] = []  # noqa: RUF012 - tests reset it
    fail = 0
    delay = 0.0

    def do_GET(self):
        part = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        Server.requests.append(f"{path.name} {part}")
        time.sleep(Server.delay)
        if Server.fail > 0:
            Server.fail -= 1
            return self.send_error(503)
        data = path.read_bytes()
        start, stop = (int(n) for n in part.removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
        self.send_header("Content-Length", str(len(data[start : stop + 1])))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # whoever asked did not wait
            self.wfile.write(data[start : stop + 1])

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the URL at which it can be had; the cache is empty."""
    folder = write_shards(tmp_path / "shards", shards=3, pairs=20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    monkeypatch.setattr(Server, "requests", [])
    monkeypatch.setattr(Server, "fail", 0)
    monkeypatch.setattr(Server, "delay", 0.0)
    handler = functools.partial(Server, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_shards_on_a_web_server_are_those_on_disk(served):
    folder, url = served
    local = open_source({"path": str(folder), "label": "label"})
    source = open_source({"path": url + "/{00000..00002}.tar", "label": "label"})
    assert len(Server.requests) == 3, "the headers of a small shard take one request"
    picked = [0, 59, 21, 20, 22]
    found = pickle.loads(pickle.dumps(source)).read(picked)
    for index, record in zip(picked, found, strict=True):
        assert record.parts["image"] == local[index].parts["image"]
        assert (record.captions, record.label) == (local[index].captions, local[index].label)
    assert source.captions(7) == local.captions(7)
    count = len(Server.requests)
    open_source({"path": url + "/{00000..00002}.tar", "label": "label"})
    assert len(Server.requests) == count, "the index was not kept"


def test_neighbours_are_one_request(served):
    _, url = served
    source = open_source({"path": f"{url}/00001.tar"})
    Server.requests.clear()
    assert len({record.key for record in source.read(range(20))}) == 20
    assert len(Server.requests) == 1


def test_a_failing_read_is_tried_again_and_then_named(served):
    _, url = served
    source = open_source({"path": f"{url}/00001.tar"})
    Server.fail = 2
    assert source[3].captions == ("picture number 23",)
    Server.fail = 3
    with pytest.raises(BadRecord, match=r"00001\.tar: .*503"):
        source[3]


def test_a_read_that_takes_too_long_is_a_bad_record(served):
    _, url = served
    source = open_source({"path": f"{url}/00001.tar", "timeout": 0.2})
    Server.delay = 1.0
    start = time.perf_counter()
    with pytest.raises(BadRecord, match=r"00001\.tar: no answer in time"):
        source[3]
    assert time.perf_counter() - start < 2.5


def test_missing_shards_stop_or_are_left_out(served, caplog):
    folder, url = served
    (folder / "00001.tar").unlink()
    (folder / "00002.tar").write_bytes(b"<html>404</html>" * 99)
    for path in (url + "/{00000..00002}.tar", str(folder / "{00000..00002}.tar")):
        with pytest.raises(
            UserError, match=r"2 of 3 shards.*00001\.tar is missing; .*00002\.tar is"
        ):
            open_source({"path": path, "bad_shards": 0.5})
        source = open_source({"path": path, "bad_shards": 0.7})
        assert len(source) == 20
        assert source.skipped == {"shards, missing or damaged": 2}
        assert "00001.tar is missing" in caplog.text


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    with pytest.raises(UserError, match=r"mine: http://127\.0\.0\.1:9/a\.tar cannot be reached"):
        open_source({"path": "http://127.0.0.1:9/a.tar"}, "mine")
    with pytest.raises(UserError, match=r"mine: what://a\.tar cannot be read .*mmjax\[remote\]"):
        open_source({"path": "what://a.tar"}, "mine")


def test_the_index_is_kept_beside_shards_that_can_be_written(tmp_path, monkeypatch):
    """fsspec's memory: globs work, and a host with an empty cache finds the index of another."""
    folder = write_shards(tmp_path / "shards", shards=2, pairs=5)
    memory = fsspec.filesystem("memory")
    for shard in folder.glob("*.tar"):
        memory.pipe_file(f"/bucket/{shard.name}", shard.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    first = open_source({"path": "memory://bucket/*.tar"})
    assert len(memory.glob("/bucket/.mmjax/*.npy")) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setattr("mmjax.data.tar.scan_shards", None)  # it would be called for a scan
    second = open_source({"path": "memory://bucket/*.tar"})
    assert [second[i] for i in range(10)] == [first[i] for i in range(10)]
    memory.rm("/bucket", recursive=True)


def test_large_shards_are_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK", 2048)
    write_tar(tmp_path / "0.tar", [m for n in range(9) for m in pair(n)])
    blocks = storage.Blocks(f"file://{tmp_path}/0.tar", (tmp_path / "0.tar").stat().st_size)
    data = (tmp_path / "0.tar").read_bytes()
    rng = np.random.default_rng(0)
    for start, length in zip(np.sort(rng.integers(0, len(data), 50)), [5, 3000] * 25, strict=True):
        assert blocks[start : start + length] == data[start : start + length]


def test_merged_requests_answer_each_range(tmp_path):
    data = np.random.default_rng(1).bytes(300_000)
    (tmp_path / "a").write_bytes(data)
    path = str(tmp_path / "a")
    wanted = [storage.Range(path, at, n) for at, n in [(200_000, 9), (5, 70_000), (0, 3), (5, 1)]]
    for url in (path, f"file://{path}"):
        ranges = [storage.Range(url, at, n) for _, at, n in wanted]
        assert storage.read(ranges) == [data[at : at + n] for _, at, n in wanted]
    (end,) = storage.read([storage.Range(path, 299_999, 2)])
    assert "a: ends before byte 300001" in str(end)


def test_threads_do_not_close_each_others_files(tmp_path, monkeypatch):
    """A file that is pushed out of the cache of open ones stays open for who reads it."""
    monkeypatch.setattr(storage, "_handle", functools.lru_cache(maxsize=1)(storage._Handle))
    paths = [str(tmp_path / f"{n}") for n in range(3)]
    for n, path in enumerate(paths):
        Path(path).write_bytes(bytes([n]) * 50)

    def read(number: int) -> bool:
        n = number % 3
        return storage.read([storage.Range(paths[n], 0, 50)]) == [bytes([n]) * 50]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(3000)))
