"""What the progress bars say, and what they leave behind."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from explainers.callbacks.progress import CloseBars, show
from explainers.callbacks.score import Score
from explainers.methods.constant import Constant
from tests import planted
from tests.support import Scenes, trainer


class Speak(Callback):
    """Shows a word beside the bar after each batch, and fails after the second if it has to."""

    def __init__(self, fails=False):
        self.fails = fails

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx):
        show(trainer, f"word {batch_idx}")
        if self.fails and batch_idx == 1:
            raise ValueError("the second batch")


def run(tmp_path, *callbacks, bar=True):
    score = Score(output_dir=str(tmp_path), metrics=[], sanity=False, panels=0)
    bars = [TQDMProgressBar()] if bar else []  # Lightning's own choice depends on what is installed
    test = trainer(tmp_path, score, *callbacks, *bars, enable_progress_bar=bar)
    test.test(Constant(planted.explanandum()), Scenes(), verbose=False)


def test_a_word_stands_beside_the_bar(tmp_path, capsys):
    run(tmp_path, Speak())
    states = capsys.readouterr().out.split("\r")
    assert any("3/3" in state and "word 2" in state for state in states)
    assert any("constant" in state for state in states)  # the row that Score is at


def test_without_a_bar_nothing_is_shown(tmp_path, capsys):
    run(tmp_path, Speak(), bar=False)
    assert "word" not in capsys.readouterr().out
    show(SimpleNamespace(progress_bar_callback=None), "word")


def test_a_word_stands_beside_a_rich_bar():
    class Bar(RichProgressBar):
        """What `show` sees of one, which takes the library rich to build."""

        def __init__(self, progress, number):
            self.progress, self.test_progress_bar_id = progress, number

    said = []
    progress = SimpleNamespace(
        update=lambda number, description: said.append((number, description))
    )
    for bar in (Bar(progress, 7), Bar(None, 7), Bar(progress, None)):
        show(SimpleNamespace(progress_bar_callback=bar), "word")
    assert said == [(7, "Testing word")]


def test_after_a_failure_the_bar_is_closed_and_the_line_ended(tmp_path, capsys):
    with pytest.raises(ValueError, match="the second batch"):
        run(tmp_path, Speak(fails=True), CloseBars())
    closed = capsys.readouterr().out
    assert closed.endswith("\n")
    assert "1/3" in closed.splitlines()[-1]
    with pytest.raises(ValueError, match="the second batch"):
        run(tmp_path, Speak(fails=True))
    assert not capsys.readouterr().out.endswith("\n")  # what it is there for


def test_a_failure_without_bars_is_no_other_failure(tmp_path):
    with pytest.raises(ValueError, match="the second batch"):
        run(tmp_path, Speak(fails=True), CloseBars(), bar=False)
