"""Configuration files of a command become one."""

import pytest
import yaml

from explainers import configfiles


def write(folder, name, content):
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


def test_files_and_flags_are_told_apart():
    words = ["-c", "a.yaml", "--trainer.max_steps", "3", "--config", "b.yaml", "--config=c.yaml"]
    assert configfiles.split(words) == (
        ["a.yaml", "b.yaml", "c.yaml"],
        ["--trainer.max_steps", "3"],
    )


def test_later_files_change_single_keys(tmp_path):
    paths = [
        write(tmp_path, "a.yaml", {"score": {"target": "label", "metrics": [1, 2]}, "x": 1}),
        write(tmp_path, "b.yaml", {"score": {"panels": 0, "metrics": [3]}}),
    ]
    assert configfiles.load(paths) == {
        "x": 1,
        "score": {"target": "label", "panels": 0, "metrics": [3]},
    }


def test_another_class_begins_anew_but_for_the_explanandum():
    old = {"class_path": "A", "init_args": {"tv": 1, "explanandum": {"init_args": {"model": "m"}}}}
    new = {"class_path": "B", "init_args": {"lr": 2}}
    assert configfiles.merge(old, new) == {
        "class_path": "B",
        "init_args": {"explanandum": {"init_args": {"model": "m"}}, "lr": 2},
    }
    assert configfiles.merge(new, {"init_args": {"lr": 3}})["init_args"] == {"lr": 3}
    first = {"init_args": {"explanandum": 1}}  # a file of configs/explananda, given first
    assert configfiles.merge(first, new)["init_args"] == {"explanandum": 1, "lr": 2}


def test_rows_are_changed_taken_out_and_taken_from_the_method_under_test(tmp_path):
    model = {"class_path": "M", "init_args": {"a": 1, "b": {"c": 2, "d": 3}, "explanandum": 0}}
    rows = {"changed": {"init_args": {"b": {"c": 9}}}, "other": {"class_path": "O"}, "gone": {}}
    paths = [
        write(tmp_path, "a.yaml", {"model": model, "score": {"methods": rows}}),
        write(tmp_path, "b.yaml", {"score": {"methods": {"gone": None}}}),
    ]
    merged = configfiles.settle(configfiles.load(paths), [], "test")
    assert merged["score"]["methods"] == {
        "changed": {"class_path": "M", "init_args": {"a": 1, "b": {"c": 9, "d": 3}}},
        "other": {"class_path": "O"},
    }


def test_a_row_that_is_not_there_cannot_be_taken_out(tmp_path):
    paths = [
        write(tmp_path, "a.yaml", {"score": {"methods": {"rise": {"class_path": "O"}}}}),
        write(tmp_path, "b.yaml", {"score": {"methods": {"risse": None}}}),
    ]
    with pytest.raises(ValueError, match=r"b\.yaml takes out the row 'risse' .* the rows are rise"):
        configfiles.load(paths)


def test_a_test_in_the_folder_of_a_fit_goes_below_it_without_its_loggers(tmp_path):
    logger = {"class_path": "l.CSVLogger", "init_args": {"name": "logs"}}
    config = {
        "trainer": {"default_root_dir": str(tmp_path), "logger": logger},
        "data": {"class_path": "datamodules.shapes.Shapes"},
    }
    assert configfiles.settle(config, [], "test")["trainer"]["logger"] == logger
    (tmp_path / "last.ckpt").touch()
    below = configfiles.settle(config, [], "test")
    assert below["trainer"]["logger"] is False
    assert below["score"]["output_dir"] == f"{tmp_path}/test-shapes"
    assert configfiles.settle(config, [], "fit")["trainer"]["logger"] == logger
    del config["trainer"]["default_root_dir"]
    flags = ["--ckpt_path", str(tmp_path / "last.ckpt")]
    named = configfiles.settle(config, flags, "predict")
    assert named["trainer"]["default_root_dir"] == f"{tmp_path}/predict-shapes"


def test_rows_of_the_method_under_test_know_its_flags(tmp_path):
    model = {"class_path": "M", "init_args": {"a": 1, "b": 2}}
    path = write(
        tmp_path, "a.yaml", {"model": model, "score": {"methods": {"row": {"init_args": {"b": 3}}}}}
    )
    flags = ["--model.init_args.a", "9", "--model.init_args.c.d=1.5", "--seed_everything", "1"]
    merged = configfiles.settle(configfiles.load([path]), flags, "test")
    assert merged["model"] == model  # the parser reads the flags later
    assert merged["score"]["methods"]["row"]["init_args"] == {"a": 9, "b": 3, "c": {"d": 1.5}}


def test_what_has_no_folder_goes_to_the_run_folder(tmp_path):
    path = write(
        tmp_path,
        "a.yaml",
        {
            "trainer": {
                "default_root_dir": "runs/x",
                "logger": {"class_path": "l.CSVLogger", "init_args": {"name": "logs"}},
                "callbacks": [
                    {"class_path": "l.ModelCheckpoint", "init_args": {"filename": "last"}},
                    {"class_path": "e.LogMaps", "init_args": {"output_dir": "mine"}},
                    {"class_path": "e.Other"},
                ],
            },
            "score": {},
        },
    )
    for flags, folder in (
        ([], "runs/x"),
        (["--trainer.default_root_dir", "runs/y"], "runs/y"),
        (["--trainer.default_root_dir", "runs/y", "--out", "runs/z"], "runs/z"),
    ):
        merged = configfiles.settle(configfiles.load([path]), flags, "test")
        assert merged["trainer"]["default_root_dir"] == folder
        assert merged["save"]["output_dir"] == folder
        saver, maps, other = merged["trainer"]["callbacks"]
        assert saver["init_args"]["dirpath"] == folder
        assert maps["init_args"]["output_dir"] == "mine"
        assert "output_dir" not in other["init_args"]
        assert merged["trainer"]["logger"]["init_args"]["save_dir"] == folder
        assert merged["score"]["output_dir"] == folder


def test_a_file_may_name_another_beside_it(tmp_path):
    write(tmp_path, "data.yaml", {"class_path": "D"})
    path = write(tmp_path, "run.yaml", {"data": "data.yaml", "note": "none.yaml"})
    assert configfiles.read(path) == {"data": {"class_path": "D"}, "note": "none.yaml"}


def test_old_names_are_renewed(tmp_path):
    old = {"model": {"class_path": "explainers.methods.rtis.RTIS", "init_args": {"lr": 0.1}}}
    found = configfiles.read(write(tmp_path, "old.yaml", old))
    assert found["model"]["init_args"] == {"optimizer": {"lr": 0.1}}


def test_what_is_no_configuration_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    for name, message in (("bad", "is no YAML file"), ("list", "must hold keys")):
        with pytest.raises(ValueError, match=message):
            configfiles.read(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        configfiles.read(str(tmp_path / "none.yaml"))


CAM, SLOC = "explainers.methods.cam.GradCAM", "explainers.methods.sloc.SLOC"


def test_methods_become_rows_and_the_first_is_under_test():
    found = configfiles.compared({"data": {"a": 1}}, [], ["grad_cam, sloc", "runs/a/last.ckpt"])
    assert found["ckpt_path"] == "runs/a/last.ckpt"  # it brings its classifier
    rows = found["score"]["methods"]
    assert {name: row["class_path"] for name, row in rows.items()} == {
        "grad_cam": CAM,
        "sloc": SLOC,
    }
    assert "model" not in found
    assert "checkpoints" not in found["score"]
    assert found["data"] == {"a": 1}
    found = configfiles.compared({}, [], ["sloc,grad_cam"])
    assert found["model"]["class_path"] == SLOC
    assert list(found["score"]["methods"]) == ["grad_cam"]
    listed = ["sloc,a/last.ckpt,b/best.ckpt,checkpoints/mine.ckpt"]
    for config, flags in (
        ({"ckpt_path": "x.ckpt"}, []),
        ({}, ["--model", CAM]),
        ({"model": {"class_path": CAM}}, []),
    ):
        found = configfiles.compared(config, flags, listed)
        assert list(found["score"]["methods"]) == ["sloc"]
        assert list(found["score"]["checkpoints"]) == ["a", "b", "mine"]
        assert {key: found.get(key) for key in config} == config


def test_rows_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"there is no method 'slock', .*; did you mean sloc\?"):
        configfiles.compared({}, [], ["slock"])
    with pytest.raises(ValueError, match=r"the methods are .*, sloc"):
        configfiles.compared({}, [], ["../../etc"])
    with pytest.raises(ValueError, match="names a row twice"):
        configfiles.compared({}, [], ["sloc", "a/last.ckpt", "b/a.ckpt"])


@pytest.mark.parametrize("more", [[], ["--trainer.logger.init_args.project", "p"]])
def test_the_logger_of_a_flag_writes_into_the_run_folder(more):
    flags = ["--trainer.logger", "a.BLogger", *more, "--out", "here"]
    for command in ("fit", "test"):
        merged = configfiles.settle({"trainer": {"logger": False}}, flags, command)
        assert merged["trainer"]["logger"] == {
            "class_path": "a.BLogger",
            "init_args": {"save_dir": "here"},
        }
    off = configfiles.settle({}, ["--trainer.logger", "false", "--out", "here"], "fit")
    assert "logger" not in off["trainer"]
