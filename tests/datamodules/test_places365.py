"""Places365: classes by the published lists, and the layouts of its folders."""

import pytest
from PIL import Image

from datamodules import places365
from datamodules.places365 import Places365


@pytest.fixture
def root(tmp_path):
    """Three classes, two val images and ten of train."""
    names = ["/a/airfield 0", "/a/apartment_building/outdoor 1", "/b/beach 2", ""]
    (tmp_path / "categories_places365.txt").write_text("\n".join(names))
    val = ["Places365_val_00000001.jpg 2", "Places365_val_00000002.jpg 1"]
    (tmp_path / "places365_val.txt").write_text("\n".join(val))
    train = [f"/a/airfield/{i:08d}.jpg 0" for i in range(10)]
    (tmp_path / "places365_train_standard.txt").write_text("\n".join(train) + "\n")
    for folder, lines in (("val_256", val), ("data_256", train)):
        for line in lines:
            path = tmp_path / folder / line.split()[0].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    return tmp_path


def make(root, **kwargs):
    return Places365(str(root), image_size=[4, 4], val_fraction=0.1, **kwargs)


def test_classes_and_images_by_hand(root):
    data = make(root)
    assert data.class_names == ["airfield", "apartment building/outdoor", "beach"]
    assert not data.multi_label
    samples = [data.dataset("test")[i] for i in (0, 1)]
    assert [s["name"] for s in samples] == [f"val_256/Places365_val_0000000{i}.jpg" for i in (1, 2)]
    assert [s["target"].tolist().index(True) for s in samples] == [2, 1]
    assert data.source("predict").names == data.source("test").names
    train, val = data.source("train").names, data.source("val").names
    assert (len(train), len(val), set(train) & set(val)) == (9, 1, set())
    assert data.dataset("train")[0]["name"].startswith("data_256/a/airfield/0000000")


def test_folders_of_any_size(root):
    (root / "val_256").rename(root / "val_large")
    (root / "data_256").rename(root / "data_large_standard")
    assert make(root).dataset("test")[0]["name"].startswith("val_large/")
    assert make(root).dataset("train")[0]["name"].startswith("data_large_standard/")


def test_errors_name_what_is_missing(root):
    (root / "val_256").rename(root / "other")
    with pytest.raises(
        FileNotFoundError, match="no folder val_256 or val_large or val with the val"
    ):
        make(root).setup("test")
    (root / "other").rename(root / "val_256")
    listing = root / "places365_val.txt"
    for text, reason in {
        "a.jpg": r"places365_val\.txt:1: expected a path and a number, got 'a\.jpg'",
        "a.jpg 1\nb.jpg x": r":2: expected a path and a number",
        "a.jpg 3": r"class 3, not below 3",
    }.items():
        listing.write_text(text)
        with pytest.raises(ValueError, match=reason):
            make(root).setup("test")
    listing.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"places365_val\.txt: no such file; set root .* dow"
    ):
        make(root).setup("test")
    (root / "categories_places365.txt").write_text("/a/airfield 1\n")
    with pytest.raises(ValueError, match="expected each index from 0 once"):
        _ = make(root).class_names
    with pytest.raises(ValueError, match="val_fraction must be in"):
        Places365(str(root), val_fraction=0)


def test_download_runs_once_and_only_on_request(root, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        places365, "Downloads", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    make(root, download=True).prepare_data()
    make(tmp_path / "new").prepare_data()
    assert calls == []
    make(tmp_path / "new", download=True).prepare_data()
    wanted = {"split": "val", "small": True, "download": True}
    assert calls == [((str(tmp_path / "new"),), wanted)]
    assert "download" not in make(root).identity("test")["arguments"]
