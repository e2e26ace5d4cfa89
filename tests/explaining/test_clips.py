"""Numbered frames and videos: their speed, their flicker and their animation."""

import builtins
import json

import numpy as np
import pytest
import torch
from PIL import Image

from explainers.explaining import clips
from explainers.explaining.explain import explain, parser
from tests import planted

MODEL = "tests.planted:PlantedCNN"
pytestmark = pytest.mark.filterwarnings("ignore:the normalization of")


def frame(brightness):
    """A picture (32, 32, 3) uint8 of this brightness at the top left, and dark elsewhere."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = brightness
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Frames 9 to 11, of which the second differs from the others."""
    (tmp_path / "frames").mkdir()
    for number, brightness in ((9, 250), (10, 180), (11, 250)):
        Image.fromarray(frame(brightness)).save(tmp_path / "frames" / f"a{number}.png")
    return tmp_path / "frames"


def run(*arguments, out):
    """The number of failures and the lines of the manifest, by the name of the file."""
    words = [*map(str, arguments), "--model", MODEL, "--image_size", "32", "32", "--out", str(out)]
    failed = explain(**parser().parse_args(words).as_dict())
    lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return failed, {line["file"].rpartition("/")[2]: line for line in lines}


def test_flicker_of_frames_and_of_maps(folder, tmp_path, capsys):
    failed, lines = run(folder, "--frames", "--method", "grad_cam", out=tmp_path / "out")
    assert failed == 0
    assert list(lines) == ["frames"]
    video = lines["frames"]["video"]
    assert video["frames"] == 3
    # A quarter of the pixels goes from 250 to 180, and back.
    assert video["flicker_of_frames"] == pytest.approx(70 / 255 / 4, abs=1e-5)
    # The map is that of the same class, and so is its form after the scaling.
    assert video["methods"]["grad_cam"]["flicker"] == pytest.approx(0, abs=1e-5)
    assert video["methods"]["grad_cam"]["frames_per_second"] > 0
    assert "frames per second, flicker 0.0000 (frames: 0.0686)" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / lines["frames"]["animation"]) as shown:
        assert (shown.n_frames, shown.size) == (3, (64, 32))
        brightness = []
        for number in range(3):
            shown.seek(number)
            brightness.append(np.asarray(shown.convert("RGB"))[:16, :16].mean())
    assert brightness[1] < 200 < 230 < min(brightness[0], brightness[2])
    assert (tmp_path / "out" / lines["frames"]["picture"]).is_file()


def test_the_class_of_the_first_frame_is_followed(folder, tmp_path):
    quadrant = np.roll(frame(250), 16, axis=1)
    Image.fromarray(quadrant).save(folder / "a10.png")
    _, lines = run(folder, "--frames", "--method", "saliency", out=tmp_path / "out")
    assert [each["class"] for each in lines["frames"]["maps"]] == ["class 0"]
    assert len(lines["frames"]["top"]) == 4


def test_a_bad_frame_is_left_out_and_counts_as_failed(folder, tmp_path):
    (folder / "a10.png").write_text("no image")
    failed, lines = run(folder, "--frames", "--method", "grad_cam", out=tmp_path / "out")
    assert failed == 1
    assert "not a readable image" in lines["a10.png"]["error"]
    assert lines["frames"]["video"]["frames"] == 2
    assert lines["frames"]["video"]["flicker_of_frames"] == 0


def test_one_frame_has_no_flicker(folder, tmp_path):
    given = (folder / "a9.png", "--frames", "--method", "grad_cam")
    video = run(*given, out=tmp_path / "out")[1]["frames"]["video"]
    assert video["frames"] == 1
    assert video["flicker_of_frames"] is None


def test_scores_and_maps_are_of_photographs_only(folder, tmp_path):
    with pytest.raises(ValueError, match="a video takes neither --score nor --save_maps"):
        run(folder, "--frames", "--score", "--method", "grad_cam", out=tmp_path / "out")


def test_without_the_reader_a_video_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"")
    original = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "av":
            raise ModuleNotFoundError(name="av")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    clip = clips.Clip(tmp_path / "a.mp4", lambda name, error: None)
    with pytest.raises(ValueError, match=r"pip install 'learned-explainers\[video\]', or give its"):
        clip.explain({}, "top1", [32, 32])


def test_frames_of_a_video_are_those_of_the_file(tmp_path):
    av = pytest.importorskip("av", reason="videos need PyAV")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for brightness in (250, 100, 250, 100):
            picture = av.VideoFrame.from_ndarray(frame(brightness), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    (tmp_path / "damaged.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    failed, lines = run(tmp_path, "--method", "grad_cam", out=tmp_path / "out")
    assert failed == 1
    assert "not a readable video" in lines["damaged.mp4"]["error"]
    video = lines["a.mp4"]["video"]
    assert video["frames"] == 4
    assert video["flicker_of_frames"] == pytest.approx(150 / 255 / 4, abs=0.02)
    with Image.open(tmp_path / "out" / "a.animation.webp") as shown:
        shown.seek(1)
        shown.load()
        assert shown.info["duration"] == 200


def test_the_animation_is_of_bounded_length(monkeypatch, folder):
    monkeypatch.setattr(clips, "MOST", 2)
    subject = planted.explanandum()
    from explainers.explaining.byname import method

    files = sorted(folder.iterdir())
    clip = clips.Clip(folder, lambda name, error: None, files)
    clip.explain({"grad_cam": method("grad_cam", subject)}, "top1", [32, 32])
    assert (clip.count, len(clip.pictures)) == (3, 2)
    assert torch.tensor(clip.seconds["grad_cam"]).shape == (3,)
