"""A folder belongs to one run, and to one process at a time."""

import json
import multiprocessing

import pytest

from explainers.evaluation.runfolder import RunFolder, differences


def hold(path, ready, done):
    folder = RunFolder(path, {"a": 1}, holds_results=False)
    ready.set()
    done.wait(30)
    folder.release()


def test_another_process_is_kept_out_until_the_run_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match=f"being written by another run .process {process.pid} on"):
        RunFolder(tmp_path, {"a": 1}, holds_results=True)
    process.kill()  # the lock ends with its process, however that ends
    process.join()
    RunFolder(tmp_path, {"a": 1}, holds_results=True).release()


@pytest.mark.parametrize(
    ("name", "results", "command"),
    [
        ("settings.json", "scores.csv", "test"),
        ("settings.json", "scores.rank-1.csv", "test"),
        ("predict.json", "cats/1.png.npy", "predict"),
        ("fit.json", "checkpoints/last.ckpt", "fit"),
    ],
)
def test_commands_do_not_share_a_folder(tmp_path, name, results, command):
    own = "predict.json" if command != "predict" else "fit.json"
    (tmp_path / name).write_text("{}")  # of a run that failed before it had results
    RunFolder(tmp_path, {"a": 1}, holds_results=False, name=own).release()
    assert not (tmp_path / name).exists()
    (tmp_path / own).unlink()
    (tmp_path / results).parent.mkdir(exist_ok=True)
    for file in (name, results):
        (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match=f"holds the results of a {command}: .*--out FOLDER"):
        RunFolder(tmp_path, {"a": 1}, holds_results=False, name=own)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".json") == [name]


def test_a_folder_may_be_taken_again_after_its_release(tmp_path):
    first = RunFolder(tmp_path, {"a": 1}, holds_results=False)
    with pytest.raises(ValueError, match="being written by another run"):
        RunFolder(tmp_path, {"a": 1}, holds_results=False)
    RunFolder(tmp_path, {"a": 1}, holds_results=True, rank=1)  # of the same run
    first.release()
    first.release()
    RunFolder(tmp_path, {"a": 1}, holds_results=True).release()


def test_results_of_other_settings_are_refused_and_kept(tmp_path):
    RunFolder(tmp_path, {"data": {"root": "a"}, "x": (1, 2)}, holds_results=False).release()
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=r"another run: data\.root was a, is b\. Choose another"):
        RunFolder(tmp_path, {"data": {"root": "b"}, "x": (1, 2)}, holds_results=True)
    assert (tmp_path / "settings.json").read_bytes() == before
    # The refusal lets go of the lock.
    RunFolder(tmp_path, {"data": {"root": "b"}}, holds_results=False).release()
    assert json.loads((tmp_path / "settings.json").read_text()) == {"data": {"root": "b"}}


def test_settings_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds results but no fit\.json"):
        RunFolder(tmp_path, {}, holds_results=True, name="fit.json")
    for content in (b'{"a": ', b"\xff\xfe", b"", b"[]", b"null"):
        (tmp_path / "settings.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"settings\.json is damaged"):
            RunFolder(tmp_path, {}, holds_results=True)
        RunFolder(tmp_path, {}, holds_results=False).release()


def test_differences_are_told_by_their_place():
    old = {"a": {"x": 1, "network": {"widths": [8]}}, "metrics": {"m": {}}}
    new = {"a": {"x": 2, "network": {"widths": [4]}}, "metrics": {"m": {}}}
    assert differences(old, old) == []
    assert differences(old, new) == ["a.x was 1, is 2", "a.network.widths was [8], is [4]"]
    assert differences({"a": {"b": 1}}, {"a": {"c": 1}}) == [
        "a.b was 1, is not there",
        "a.c was not there, is 1",
    ]
    assert differences({"a": {"b": {}}}, {"a": {}}) == ["a.b was there, is not there"]
    assert differences({"a": {"b": 1}}, {"a": 2}) == ["a was {'b': 1}, is 2"]
    assert len(differences({"a": "x" * 1000}, {"a": "y"})[0]) < 130
    assert differences({"data": {"hash": "1"}}, {"data": {"hash": "2"}}) == [
        "data.hash: the images are others, by name, label or size of the file"
    ]
