"""The studies of generative removal, on planted classifiers and hand-written scores."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from benchmarks import removal, removal_runs
from tests import planted

SIZE = (32, 32)
GIVEN = Namespace(fills=["black", "harmonic"], patch=56, stride=56, samples=6, segments=9)


def test_patches_beside_a_box_do_not_overlap_it():
    tops = lefts = torch.tensor([0, 4, 8])
    found = removal.overlaps(tops, lefts, 4, torch.tensor([[4, 0, 8, 5]]))
    assert found.tolist() == [[False, True, False], [False, True, False], [False] * 3]
    assert not removal.overlaps(tops, lefts, 4, torch.zeros(0, 4).long()).any()


def test_pixels_of_boxes_and_the_row_through_the_largest():
    boxes = torch.tensor([[0, 0, 1, 1], [1, 4, 3, 8]])
    assert removal.covered(boxes, 8, 3).sum() == 1 + 8
    # The middle of the larger box is at 6, that of the patches at 1, 5 and 9.
    assert removal.row_of(torch.tensor([0, 4, 8]), 2, boxes) == 1


def test_entropy_by_hand():
    found = removal.spread(Counter({3: 4, 0: 2, 1: 1, 2: 1}))
    assert found == {"entropy": 1.75, "top_three": 0.875}


@pytest.mark.parametrize(("target", "label", "boxes"), [("label", 1, 1), ("predicted", 0, 2)])
def test_the_class_and_its_boxes(target, label, boxes):
    images, _ = planted.scenes(1, SIZE)  # the first quadrant is bright, the second is the label
    shown = torch.tensor([[False, True, False, False]])
    rows = torch.tensor([[[1, 0, 0, 4, 4], [2, 8, 8, 9, 9], [-1, 0, 0, 0, 0]]])
    batch = {"image": images, "target": shown, "boxes": rows, "name": ["a.jpg"]}
    data = SimpleNamespace(setup=lambda stage: None, test_dataloader=lambda: [batch])
    (found,) = removal.examples(planted.explanandum(), data, target)
    assert (found.name, found.label.tolist(), len(found.boxes)) == ("a.jpg", [[label]], boxes)
    assert found.boxes[0].tolist() == [0, 0, 4, 4]


def constant_image():
    box = torch.tensor([[0, 0, 16, 16]])
    image = torch.full((1, 3, *SIZE), 0.5)
    return removal.Example("one", image, torch.tensor([[0]]), box)


def test_a_fill_that_sees_the_surroundings_changes_nothing_in_a_constant_image():
    subject = planted.explanandum()
    measured = removal.measure(subject, [constant_image()], GIVEN)
    values, labels, line = measured.values, measured.labels, measured.row
    found = values["harmonic"]
    for figure in ("outside", "inside"):
        assert found[figure] == [pytest.approx(0, abs=1e-5)]
    assert found["box"] == [pytest.approx(0.25, abs=1e-5)]
    assert values["clean"]["whole"] == [pytest.approx(0.25)]
    assert labels["black"].total() == labels["harmonic"].total() == 6
    assert len(line) == 2 * 4  # four patches of 8 pixels in a row, for each fill


def test_black_patches_by_hand():
    """A patch darkens a quarter of its quadrant, whose logit falls by a quarter."""
    subject, example = planted.explanandum(), constant_image()
    measured = removal.measure(subject, [example], GIVEN)
    values, line = measured.values, measured.row
    logit = subject(example.image)[0, 0].double()
    fallen = torch.tensor([0.75, 1, 1, 1]).double() * logit
    own, other = (fallen.softmax(0)[k].item() for k in (0, 1))
    found = values["black"]
    assert found["inside"] == [pytest.approx(0.25 - own, rel=1e-4)]
    assert found["outside"] == [pytest.approx(other - 0.25, rel=1e-4)]
    gone = torch.tensor([0.0, 1, 1, 1]).double() * logit
    assert found["box"] == [pytest.approx(gone.softmax(0)[0].item(), rel=1e-4)]
    assert found["whole"] == [pytest.approx(0.25)]
    row = [(left, inside, p) for _, fill, left, inside, p in line if fill == "black"]
    assert [(left, inside) for left, inside, _ in row] == [
        (0, True),
        (8, True),
        (16, False),
        (24, False),
    ]
    assert [p for *_, p in row] == [pytest.approx(p, rel=1e-4) for p in (own, own, other, other)]


def test_the_command_on_shapes(tmp_path, capsys):
    words = ["fills", "-c", "configs/data/shapes.yaml", "--data.init_args.test_images", "2"]
    words += ["--data.init_args.num_workers", "0", "--data.init_args.image_size", "[32,32]"]
    words += ["--explanandum.model", "checkpoints/shapes_classifier.ckpt"]
    words += ["--fills", "[mean]", "--patch", "112", "--stride", "112", "--samples", "3"]
    removal.main([*words, "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "| mean" in text
    assert "/ 0.09 |" in text  # the published figure stands beside ours
    found = json.loads((tmp_path / "fills.json").read_text())
    assert found["images"] == len(found["values"]["mean"]["whole"]) == 2


def scores_file(folder, columns, rows):
    """A scores.csv with rows of image number, method and values."""
    lines = [",".join(["index", "name", "target", "method", *columns, "identity", "error"])]
    lines += [f"{i},{i}.jpg,0,{m},{','.join(map(str, values))},x," for i, m, *values in rows]
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")


def test_the_threshold_of_the_held_out_images_is_marked(tmp_path, capsys):
    name = "LocalizationError"
    columns = [f"{name}/0.00", f"{name}/0.50", f"{name}/held_out"]
    rows = [(0, "a", 1, 0, 1), (1, "a", 1, 1, 1), (2, "a", 0, 1, 0), (3, "a", 0, 0, 0)]
    scores_file(tmp_path, columns, rows)
    removal.main(["alphas", str(tmp_path), "--out", str(tmp_path)])
    text = " ".join(capsys.readouterr().out.split())
    assert "| 0.00 | 1.000 |" in text
    assert "| 0.50 | 0.500 * |" in text
    assert "| other images at * | 0.500 |" in text  # at 0.50; at 0 it would be 0
    found = json.loads((tmp_path / "alphas.json").read_text())
    assert found[name]["held_out"]["a"] == [1, 0.5]


def test_images_that_gain_in_all_three_similarities(tmp_path):
    gains = [(0.3, 0.3, 0.3), (0.2, 0.2, 0.1), (0.1, 0.1, 0.2), (-0.1, -0.1, -0.1), (0, 0, 0)]
    rows = [(i, "lime", 0.5, 0.5, 0.5) for i in range(5)]
    rows += [(i, "lime_g", *(0.5 + g for g in gain)) for i, gain in enumerate(gains)]
    scores_file(tmp_path, removal_runs.SIMILARITIES, rows)
    given = Namespace(run=tmp_path, first="lime", second="lime_g", top=2)
    text, found = removal_runs.robustness(given)
    # Image 1 is second in SSIM and HOG, image 2 in Spearman.
    assert found == {"lime_g": ["0.jpg 0"], "lime": ["3.jpg 0"]}
    assert "would share at most 0.3" in text  # 5 images times (2 / 5)^3


def test_wrong_input_is_told(tmp_path):
    with pytest.raises(SystemExit, match="does not exist"):
        removal.main(["alphas", str(tmp_path)])
    scores_file(tmp_path, ["DeletionAUC"], [(0, "a", 0.5)])
    with pytest.raises(SystemExit, match="neither LocalizationError"):
        removal.main(["alphas", str(tmp_path)])
    with pytest.raises(SystemExit, match="row 'lime'"):
        removal.main(["robustness", str(tmp_path), "lime", "lime_g"])
