"""CSV files of one's own images: labels, indices, splits, errors that name the line."""

import pytest
from PIL import Image

from datamodules.folder import CSVFolder


def names(data, split):
    return list(data.dataset(split).source.names)


def label(data, split, index):
    return data.dataset(split)[index]["target"].nonzero().flatten().tolist()


def write(root, text, *files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "labels.csv").write_text(text)
    return str(root)


def test_one_label_column(tmp_path):
    text = "filename,kind,size\na.png,dog,1\nb.png,cat,2\n"
    root = write(tmp_path, text, "a.png", "b.png")
    data = CSVFolder(root=root, label_column="kind", image_size=[4, 4])
    assert data.class_names == ["cat", "dog"]
    assert not data.multi_label
    assert [label(data, "predict", index) for index in range(2)] == [[1], [0]]
    assert data.dataset("predict")[0]["name"] == "a.png"
    mapped = CSVFolder(root=root, label_column="kind", class_indices={"dog": 3, "cat": 0})
    assert mapped.num_classes == 4
    assert label(mapped, "predict", 0) == [3]


def test_a_column_per_class_and_a_split_column(tmp_path):
    text = "\ufeffid,cat,dog,part\na,1,1,train\nb,0,1.0,val\nc,0,0,train\n"
    root = write(tmp_path, text, "img/a.png", "img/b.png", "img/c.png")
    settings = {"name_column": "id", "file_pattern": "img/{}.png", "split_column": "part"}
    data = CSVFolder(root=root, **settings, image_size=[4, 4], batch_size=2)
    assert data.multi_label
    assert data.class_names == ["cat", "dog"]
    assert names(data, "train") == ["img/a.png", "img/c.png"]
    assert [label(data, "train", index) for index in range(2)] == [[0, 1], []]
    assert names(data, "test") == names(data, "val") == ["img/b.png"]
    dogs = CSVFolder(root=root, **settings, class_names=["dog"])
    assert dogs.num_classes == 1
    assert label(dogs, "val", 0) == [0]


def test_an_index_column(tmp_path):
    text = "filename,index,kind\na.png,4,crane\nb.png,1,crane\n"
    root = write(tmp_path, text, "a.png", "b.png")
    data = CSVFolder(root=root, index_column="index", label_column="kind", num_classes=6)
    assert data.class_names == ["0", "crane", "2", "3", "crane", "5"]
    assert [label(data, "predict", index) for index in range(2)] == [[4], [1]]
    assert CSVFolder(root=root, index_column="index").num_classes == 5
    root = write(tmp_path, "filename,index,kind\na.png,4.0,crane\nb.png,4,stork\n")
    with pytest.raises(ValueError, match=r"csv:3: index 4 is called 'stork', and 'crane' above"):
        CSVFolder(root=root, index_column="index", label_column="kind").setup("fit")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("name,kind\n", {}, "no column 'filename', only .*; set name_column"),
        ("filename,a\nx.png,1\n", {"class_names": ["b"]}, "no column 'b'"),
        ("filename,a\nx.png,1\nx.png,0\n", {}, r"csv:3: x\.png is listed twice, first in line 2"),
        ("filename,a\nx.png,1\n./x.png,0\n", {}, r"csv:3: x\.png is listed twice"),
        ("filename,a\nx.png,dog\n", {}, r"labels\.csv:2: expected 0 or 1 in column 'a', got 'dog'"),
        ("filename,a\nx.png,-1\n", {"index_column": "a"}, r"labels\.csv:2: expected an index"),
        ("filename,a\nx.png,7\n", {"index_column": "a", "num_classes": 3}, "not in 0 to 2"),
        ("filename,a\nx.png,q\n", {"label_column": "a", "class_names": ["p"]}, "unknown class 'q'"),
        ("filename,a,s\nx.png,1,eval\n", {"split_column": "s"}, r":2: unknown split 'eval'"),
        ("filename,a,s\nx.png,1,\n", {"split_column": "s"}, r":2: unknown split ''"),
        ("filename,a,s\nx.png,1,val\n", {"split_column": "s"}, "no split 'train', only"),
        ("filename,a\n", {}, "split 'train' has no images"),
        ("filename,a\nx.png,p\n", {"label_column": "a"}, "'p' is the only class"),
        (
            "filename,a\nx.png,p\n\ny.png,\n",
            {"label_column": "a"},
            r"csv:4: no entry in column 'a'",
        ),
        (
            "filename,a\nx.png,p\n,q\n",
            {"label_column": "a"},
            r"csv:3: no entry in column 'filename'",
        ),
        (
            "filename,a\nx.png,p\ny.png,P\n",
            {"label_column": "a"},
            "'P' and 'p' look like one class",
        ),
        ("filename,a\nx.png,P\n", {"label_column": "a", "class_names": ["p"]}, "unknown class 'P'"),
        ("filename,a,b\nx.png,1,\n", {}, r"csv:2: no entry in column 'b'"),
        ("filename,a,b\nx.png,1,0.5\n", {}, r"csv:2: expected 0 or 1 in column 'b', got '0.5'"),
        (",filename,a\n0,x.png,1\n1,y.png,0\n", {}, r"csv:1: a column is called ''; remove it"),
        ("filename,a\nx.png,1\n", {"file_pattern": "img.png"}, r"file_pattern must contain \{\}"),
    ],
)
def test_csv_errors(tmp_path, text, settings, message):
    root = write(tmp_path, text, "x.png", "y.png")
    with pytest.raises(ValueError, match=message):
        CSVFolder(root=root, **settings).setup("fit")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: no such file; set csv_file"):
        CSVFolder(root=str(tmp_path)).setup("fit")
    root = write(tmp_path, "filename,a\ngone.png,1\n")
    with pytest.raises(
        FileNotFoundError, match=r"labels\.csv:2: no such file .*gone\.png; correct the list"
    ):
        CSVFolder(root=root).setup("predict")


def classes(data, split="predict"):
    """Class names of each image, by its path."""
    names = data.dataset(split).source.names
    return {
        name: [data.class_names[place] for place in label(data, split, index)]
        for index, name in enumerate(names)
    }


def test_labels_are_stripped_and_numbers_sort_as_numbers(tmp_path):
    lines = ["File;Kind", "a.png; cat", 'b.png; "cat "', "c.png;dog"]
    files = ["a.png", "b.png", "c.png"]
    root = write(tmp_path, "\n".join(lines), *files)
    settings = {"name_column": "file", "label_column": "kind", "image_size": [4, 4]}
    data = CSVFolder(root=root, **settings)
    assert data.class_names == ["cat", "dog"]
    assert classes(data) == {"a.png": ["cat"], "b.png": ["cat"], "c.png": ["dog"]}
    root = write(tmp_path, "file\tkind\na.png\t10\nb.png\t2\nc.png\t0\n", *files)
    data = CSVFolder(root=root, **settings)
    assert data.class_names == ["0", "2", "10"]
    assert classes(data) == {"a.png": ["10"], "b.png": ["2"], "c.png": ["0"]}


def test_splits_and_paths_as_people_write_them(tmp_path):
    files = ["d/a.png", "d/b.png", "d/c.png", "d/d.png"]
    lines = ["filename,kind,Part", r"d\a.png,x,Training", f"{tmp_path}/d/b.png,y,VALIDATION "]
    root = write(tmp_path, "\n".join([*lines, "./d/c.png,x, test", "d/d.png,y,dev"]), *files)
    data = CSVFolder(root=root, label_column="kind", split_column="part", image_size=[4, 4])
    assert classes(data, "train") == {"d/a.png": ["x"]}
    assert classes(data, "val") == {"d/b.png": ["y"], "d/d.png": ["y"]}
    assert classes(data, "test") == {"d/c.png": ["x"]}
    data = CSVFolder(root=root, label_column="kind", split_column="part", test_on="all")
    assert names(data, "test") == ["d/a.png", "d/b.png", "d/d.png", "d/c.png"]
    assert not data.splits_at_random
    assert CSVFolder(root=root, label_column="kind").splits_at_random


def test_flags_as_people_write_them_and_images_without_any_class(tmp_path):
    text = "filename,cat,dog\na.png,True,1.0\nb.png,FALSE,0\nc.png,0,true\n,,\n"
    root = write(tmp_path, text, "a.png", "b.png", "c.png")
    data = CSVFolder(root=root, image_size=[4, 4])
    assert classes(data) == {"a.png": ["cat", "dog"], "b.png": [], "c.png": ["dog"]}


def test_words_for_missing_entries_can_be_classes_if_the_user_says_so(tmp_path):
    root = write(tmp_path, "filename,kind\na.png,NA\nb.png,FR\n", "a.png", "b.png")
    with pytest.raises(ValueError, match=r"csv:2: no entry in column 'kind' \('NA'\); fill it in"):
        CSVFolder(root=root, label_column="kind").setup("fit")
    data = CSVFolder(root=root, label_column="kind", class_names=["NA", "FR"], image_size=[4, 4])
    assert classes(data) == {"a.png": ["NA"], "b.png": ["FR"]}
