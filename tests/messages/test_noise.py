import logging
import warnings

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from explainers.messages import noise


def test_a_warning_is_a_line_without_its_place_in_the_code(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        noise.mute()
    shown = warnings.formatwarning(UserWarning("the mean\n  is odd"), UserWarning, "a.py", 7)
    assert shown == "warning: the mean is odd\n"
    other = warnings.formatwarning(FutureWarning("old"), FutureWarning, "a.py", 7)
    assert other == "FutureWarning: old (a.py:7)\n"


def test_lines_of_every_run_are_left_out_and_no_others(caplog):
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        noise.mute()
        noise.mute()
        rank_zero_info("Tip: buy this")
        rank_zero_info("run folder: runs/x")
        rank_zero_warn("This DataLoader will create 4 worker processes in total")
        rank_zero_warn("the normalization is not known")
    assert [record.getMessage() for record in caplog.records] == ["run folder: runs/x"]
    assert [str(warning.message) for warning in told] == ["the normalization is not known"]
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert logger.filters.count(noise._tells) == 1
