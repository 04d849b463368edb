"""Paths of images as tables write them: found, or the reason said."""

import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.errors import UserError


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "at" / "pix").mkdir(parents=True)
    for n in range(3):
        (tmp_path / "at" / "pix" / f"{n}.png").write_bytes(encode(picture(n)))
    return tmp_path / "at" / "pix"


def csv(folder, images):
    file = folder / "a.csv"
    file.write_text("image,caption\n" + "".join(f"{path},a\n" for path in images))
    return open_source({"path": str(file)})


@pytest.mark.parametrize("table", ["at/pix", "at", "at/tables", "elsewhere"])
def test_bare_names_and_paths_from_near_the_table_are_found(pictures, table, monkeypatch):
    folder = pictures.parent.parent / table
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(pictures.parent)
    bare = ("0.png", "1.png") if table in ("at", "at/pix") else ("pix/0.png", "pix/1.png")
    source = csv(folder, [*bare, "no.png"])
    assert [source[n].parts["image"] for n in range(2)] == [encode(picture(n)) for n in range(2)]
    assert dict(source.skipped) == {"whose image file is missing": 1}
    said = any("are seen from" in line for line in source.account.found)
    assert said == (table != "at/pix")


def test_names_that_are_in_two_folders_are_refused(pictures):
    (pictures.parent / "test").mkdir()
    (pictures.parent / "test" / "0.png").write_bytes(encode(picture(5)))
    with pytest.raises(UserError, match=r"not in its folder .* but in pix/ and in test/"):
        csv(pictures.parent, ["0.png"])


def test_other_ways_to_write_a_path(pictures):
    (pictures / "a\\b.png").write_bytes(encode(picture(7)))
    (pictures / "c d.png").write_bytes(encode(picture(8)))
    absolute = pictures / "1.png"
    source = csv(pictures.parent, ["pix\\0.png", absolute, f"file://{pictures}/c%20d.png",
                                   "pix/a\\b.png", "https://example.com/x.png"])  # fmt: skip
    found = [source[n].parts["image"] for n in range(4)]
    assert found == [encode(picture(n)) for n in (0, 1, 8, 7)]
    assert list(source.skipped) == ["whose image is an address (URL), which img2dataset fetches"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("url,caption", r"run img2dataset --url_list=.*a\.csv --input_format=csv --url_col=url"),
        ("0.png,a cat", "That is no header"),
        ("image,Label", "or the classes with label=Label"),
    ],
)
def test_tables_without_the_columns_say_what_helps(pictures, header, said):
    (pictures / "a.csv").write_text(f"{header}\n1.png,2\n")
    with pytest.raises(UserError, match=said):
        open_source({"path": str(pictures / "a.csv")})
