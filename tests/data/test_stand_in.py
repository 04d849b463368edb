"""Files that were never fetched are named as what they are, whoever opens them."""

import pytest

from mmjax.data.stand_in import check_fetched, stand_in
from mmjax.errors import UserError

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGES = (
    b"<!DOCTYPE html>\n<html lang=en><title>Sign in</title>",
    b"\xef\xbb\xbf \n<HTML><body>404</body></HTML>",
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    b"<Error><Code>NoSuchKey</Code></Error>",
    b"Entry not found",
    b"Repository Not Found",
    b"Access to model x/y is restricted.",
)
FILES = (
    b"", b"PK\x03\x04", b'{"a": 1}', b"a photo of <html>", b"\x80\x02}q", b"key,caption\n",
    b'<?xml version="1.0"?><svg/>', b"<b>bold</b>", b"version 2 of a photo",
)  # fmt: skip


def test_what_stands_for_a_file_is_told_from_files():
    assert stand_in(POINTER) == "a git-lfs pointer"
    assert {stand_in(page) for page in PAGES} == {"a server's page"}
    assert {stand_in(file) for file in FILES} == {""}


@pytest.mark.parametrize(
    ("content", "said"),
    [(POINTER, r"w\.tar is a git-lfs pointer.*git lfs pull"), (PAGES[0], "a server's page")],
)
def test_the_file_and_the_remedy_are_named(tmp_path, content, said):
    (tmp_path / "w.tar").write_bytes(content)
    with pytest.raises(UserError, match=said):
        check_fetched(tmp_path / "w.tar")
    check_fetched(tmp_path / "absent")
