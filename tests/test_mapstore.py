import numpy as np
import pytest

from explainers import mapstore

GENERATOR = np.random.default_rng(0)


def entry(index, size=(5, 7), count=2, points=4):
    maps = {
        (f"method {i}", "3|7"): GENERATOR.normal(size=size).astype(np.float32) * 10.0 ** (4 - 9 * i)
        for i in range(count)
    }
    curves = {key: {"INS": np.linspace(0, 1, 2 * points).reshape(2, points)} for key in maps}
    facts = {"size": list(size), "target": {"3": "cat", "7": "dog"}}
    photo = mapstore.photo(GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8))
    return mapstore.Entry(index, f"é/{index}.jpg", photo, facts, maps, curves)


def assert_same(found, written):
    assert (found.index, found.name) == (written.index, written.name)
    assert (found.facts, found.photo) == (written.facts, written.photo)
    assert list(found.maps) == list(written.maps)
    for key, values in written.maps.items():
        # float16 has 11 significant bits; below 2**-14 of the largest value its steps are equal.
        limit = np.maximum(np.abs(values) * 2.0**-11, np.abs(values).max(initial=0) * 2.0**-25)
        assert (np.abs(found.maps[key] - values) <= 1.001 * limit).all()
    for key, curves in written.curves.items():
        for name, curve in curves.items():
            np.testing.assert_allclose(found.curves[key][name], curve, atol=2.0**-11)


def test_maps_of_any_magnitude_and_curves_come_back(tmp_path):
    written = [entry(4), entry(0), entry(11, size=(3, 3), count=0)]
    for each in written:
        mapstore.write(tmp_path, each)
    for _ in range(2):
        found = list(mapstore.read(tmp_path))
        for one, other in zip(found, sorted(written, key=lambda each: each.index), strict=True):
            assert_same(one, other)
        mapstore.pack(tmp_path)
    place = mapstore.places(tmp_path)["é/4.jpg"]
    assert_same(mapstore.load(*place), written[0])


def test_zero_maps_stay_zero(tmp_path):
    zero = np.zeros((2, 2), np.float32)
    facts = {"size": [2, 2]}
    mapstore.write(tmp_path, mapstore.Entry(0, "a", b"", facts, {("a", "1"): zero}, {}))
    (found,) = mapstore.read(tmp_path)
    assert (found.maps["a", "1"] == 0).all()


def test_images_are_packed_and_repacked(tmp_path, monkeypatch):
    monkeypatch.setattr(mapstore, "PACK", 3)
    for index in range(4):
        mapstore.write(tmp_path, entry(index))
    mapstore.pack(tmp_path)
    again = entry(1)
    for each in (again, entry(9), entry(7)):
        mapstore.write(tmp_path, each)
    assert_same(next(e for e in mapstore.read(tmp_path) if e.index == 1), again)
    mapstore.pack(tmp_path)
    assert [e.index for e in mapstore.read(tmp_path)] == [0, 1, 2, 3, 7, 9]
    assert_same(next(e for e in mapstore.read(tmp_path) if e.index == 1), again)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["images-00000000.npz", "images-00000003.npz"]


def test_an_interrupted_pack_loses_nothing(tmp_path, monkeypatch):
    for index in range(3):
        mapstore.write(tmp_path, entry(index))

    def stop(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mapstore.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            mapstore.pack(tmp_path)
    assert [e.index for e in mapstore.read(tmp_path)] == [0, 1, 2]
    mapstore.pack(tmp_path)
    assert [e.index for e in mapstore.read(tmp_path)] == [0, 1, 2]


def test_smooth_maps_are_small(tmp_path):
    """Maps of 7 x 7 cells at 224 px take less than a fifth of their size as float32."""
    import torch
    from torch.nn import functional as F

    coarse = torch.rand(1, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    maps = F.interpolate(coarse, 224, mode="bilinear")[0].numpy()
    facts = {"size": [224, 224]}
    held = {(str(i), "0"): each for i, each in enumerate(maps)}
    mapstore.write(tmp_path, mapstore.Entry(0, "a", b"", facts, held, {}))
    (path,) = (tmp_path / "kept").iterdir()
    assert path.stat().st_size < maps.nbytes / 5


def test_a_folder_without_kept_maps_is_empty(tmp_path):
    assert list(mapstore.read(tmp_path)) == []
    assert mapstore.about(tmp_path) == {}
