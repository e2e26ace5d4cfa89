"""The forms of ImageNet's validation labels; the devkit's numbers are not the usual indices."""

import tarfile

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules import imagenet_labels as forms
from datamodules.boxes import pad_boxes, read_annotation

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n02012849"  # 0, 1 and 134
KEYS = [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]


def write_devkit(folder):
    """IDs 1 crane, 2 tench, 3 goldfish and 1001, which is no leaf; the truth is 2, 1, 3."""
    folder.mkdir(parents=True)
    rows = [(1, CRANE, 0), (2, TENCH, 0), (3, GOLDFISH, 0), (1001, "n00001740", 5)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)[:, None]})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n3\n")


def test_the_devkit_as_folder_and_archive(tmp_path):
    expected = dict(zip(KEYS, (0, 134, 1), strict=True))
    write_devkit(tmp_path / "one/ILSVRC2012_devkit_t12/data")
    assert forms.find_labels(tmp_path / "one", []).classes == expected
    (tmp_path / "two").mkdir()
    with tarfile.open(tmp_path / "two" / forms.ARCHIVE, "w:gz") as archive:
        archive.add(tmp_path / "one/ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    assert forms.find_labels(tmp_path / "two", []).classes == expected
    (tmp_path / "two" / forms.ARCHIVE).write_bytes(b"cut off")
    with pytest.raises(ValueError, match="not a readable archive with ILSVRC2012_validation"):
        forms.find_labels(tmp_path / "two", [])
    synsets = tmp_path / "one/ILSVRC2012_devkit_t12/data/meta.mat"
    synsets.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"not the devkit's ground truth with its meta\.mat"):
        forms.find_labels(tmp_path / "one", [])
    synsets.unlink()
    with pytest.raises(FileNotFoundError, match=r"are ILSVRC2012_IDs, not class indices, and meta"):
        forms.find_labels(tmp_path / "one", [])


def test_torchvisions_file(tmp_path):
    torch.save(({TENCH: ("tench",)}, [GOLDFISH, CRANE]), tmp_path / "meta.bin")
    found = forms.find_labels(tmp_path, [])
    assert found.classes == {KEYS[0]: 1, KEYS[1]: 134}
    (tmp_path / "meta.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"meta\.bin: not torchvision's meta\.bin"):
        forms.find_labels(tmp_path, [])


def test_lists_of_names_and_targets(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text(f"\ufeff{KEYS[0]}.JPEG 65\nmy photo 1.jpg, {CRANE}\nval\\{KEYS[1]}\t999\n")
    assert forms.find_labels(tmp_path, []).classes == {
        KEYS[0]: 65, "my photo 1": 134, KEYS[1]: 999
    }  # fmt: skip
    faults = {
        "a 1000": r"val\.txt:1: target 1000: these numbers count from 1.*ILSVRC2012_IDs",
        "a cat": r"val\.txt:1: expected a WordNet id .* got 'cat'",
        "a -1": "got '-1'",
        "alone": r"val\.txt:1: expected 'name target', got 'alone'",
        "a 1\nb/a.png 2": r"val\.txt:2: a is listed twice with different targets",
        "": "no line 'name target'",
    }
    for text, message in faults.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            forms.listed_labels(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        forms.listed_labels(path)
    with pytest.raises(FileNotFoundError, match="no such file; set labels"):
        forms.listed_labels(tmp_path / "none.txt")


def test_xml_files_tell_labels_if_there_is_nothing_else(tmp_path):
    folder = tmp_path / "bbox_val"
    folder.mkdir()
    assert forms.find_labels(tmp_path, KEYS) is None
    box = "<bndbox><xmin>0</xmin><ymin>1</ymin><xmax>2</xmax><ymax>3</ymax></bndbox>"
    (folder / f"{KEYS[1]}.xml").write_text(
        f"<annotation><object><name>{CRANE}</name>{box}</object></annotation>"
    )
    assert forms.find_labels(tmp_path, KEYS).classes == {KEYS[1]: 134}


def test_broken_tables_and_annotations_are_named(tmp_path):
    path = tmp_path / "LOC_val_solution.csv"
    rows = {
        f"{KEYS[0]},{TENCH} 1 2 3": r"csv:2: expected 'wnid left top right bottom', repeated",
        f"{KEYS[0]},{TENCH} 1 2 3 x": r"csv:2: expected 'wnid",
        f"{KEYS[0]},{TENCH} 1 2 3 nan": r"csv:2: expected 'wnid",
        f"{KEYS[0]},n00000000": r"csv:2: expected a WordNet id .* got 'n00000000'",
        f"{KEYS[0]},": r"csv:2: no entry in column 'PredictionString'",
    }
    for row, message in rows.items():
        path.write_text(f"ImageId,PredictionString\n{row}\n")
        with pytest.raises(ValueError, match=message):
            forms.kaggle_labels(path)
    path.write_text("name,target\n")
    with pytest.raises(ValueError, match="no column 'ImageId'"):
        forms.kaggle_labels(path)
    file = tmp_path / "a.xml"
    for thing in (f"<name>{TENCH}</name>", "<name>cat</name>"):
        file.write_text(f"<annotation><object>{thing}</object></annotation>")
        with pytest.raises(ValueError, match=r"a\.xml: not an annotation of these classes"):
            read_annotation(file, {TENCH: 0})
    with pytest.raises(FileNotFoundError, match="no such annotation"):
        read_annotation(tmp_path / "b.xml", {})
    with pytest.raises(ValueError, match=r"a\.jpg: 65 boxes, expected at most 64"):
        pad_boxes([(0, 0, 0, 1, 1)] * 65, "a.jpg")
