"""Kept listings: used while no file is added, removed or renamed, and never otherwise."""

import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules import listing, listing_cache
from datamodules.listing import find_images
from datamodules.userfolder import cache_folder, keep


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of four images and a text that has not changed for long; any size is kept."""
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing_cache, "LEAST", 1)
    for name in ("a/1.png", "a/2.png", "b/c/3.png", "4.png", "note.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    age(tmp_path / "data")
    return tmp_path / "data"


def age(root, seconds=10**9):
    """Make folders look as if they had last changed long ago."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        os.utime(folder, (seconds, seconds))


def kept(root):
    return sorted((root.parent / "cache" / "listings").glob("*"))


IMAGES = ["4.png", "a/1.png", "a/2.png", "b/c/3.png"]


def test_the_second_listing_walks_through_no_folder(root, monkeypatch):
    first = find_images(root)
    assert first == (IMAGES, Counter({".txt": 1}), [])
    assert len(kept(root)) == 1
    monkeypatch.setattr(listing, "_entries", lambda folder: pytest.fail("walked"))
    again = find_images(root)
    assert again == first
    assert isinstance(again[1], Counter)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda root: (root / "a/5.png").touch(), [*IMAGES[:3], "a/5.png", "b/c/3.png"]),
        (lambda root: (root / "a/1.png").unlink(), ["4.png", "a/2.png", "b/c/3.png"]),
        (lambda root: (root / "b/c/3.png").rename(root / "b/c/0.png"), [*IMAGES[:3], "b/c/0.png"]),
        (lambda root: (root / "b/c").rename(root / "b/d"), [*IMAGES[:3], "b/d/3.png"]),
        (lambda root: (root / "e").mkdir(), IMAGES),
    ],
)
def test_any_change_of_a_folder_is_noticed(root, change, found):
    find_images(root)
    change(root)
    assert find_images(root)[0] == found


def test_a_folder_that_has_just_changed_is_not_kept(root):
    (root / "a/9.png").touch()
    find_images(root)
    assert kept(root) == []


def test_links_and_small_folders_are_not_kept(root, monkeypatch):
    monkeypatch.setattr(listing_cache, "LEAST", 6)
    find_images(root)
    assert kept(root) == []
    monkeypatch.setattr(listing_cache, "LEAST", 1)
    (root / "b/link.png").symlink_to(root / "4.png")
    age(root)
    with pytest.warns(UserWarning, match="links lead to 1 images a second time"):
        find_images(root)
    assert kept(root) == []


def test_a_damaged_listing_is_made_anew(root):
    expected = find_images(root)
    (path,) = kept(root)
    whole = path.read_bytes()
    for damaged in (b"", b"x", whole[:-9], whole.replace(b"4.png", b"5.png"), b"\xff\n{}"):
        path.write_bytes(damaged)
        assert find_images(root) == expected
        assert path.read_bytes() == whole


def test_names_that_are_not_text_are_kept(root):
    name = os.fsdecode(b"a/\xff\n.png")
    (root / name).touch()
    age(root)
    assert find_images(root)[0] == find_images(root)[0] == sorted([*IMAGES, name])


def test_other_endings_are_another_listing(root, monkeypatch):
    find_images(root)
    monkeypatch.setattr(listing, "extensions", lambda: frozenset({".txt"}))
    assert find_images(root)[0] == ["note.txt"]
    assert len(kept(root)) == 2


def test_the_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("LEARNED_EXPLAINERS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/learned-explainers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/learned-explainers")
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", "~/here")
    assert cache_folder() == Path("/home/me/here")
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", "off")
    assert cache_folder() is None
    (tmp_path / "file").touch()
    assert not keep(tmp_path / "file/within/x", b"1")
    assert keep(tmp_path / "new/x", b"1")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


def test_nothing_is_kept_if_the_user_wants_so(root, monkeypatch):
    monkeypatch.setenv("LEARNED_EXPLAINERS_CACHE", "off")
    assert find_images(root)[0] == find_images(root)[0] == IMAGES
    assert kept(root) == []
