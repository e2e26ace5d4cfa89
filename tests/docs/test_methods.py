"""The pages of the methods, as the site shows them, without mkdocs."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("docs_methods", "docs/methods.py")
docs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docs)
PICTURES = sorted(docs.PICTURES.glob("*.webp"))


@pytest.mark.parametrize("name", docs.names())
def test_every_method_says_its_source_and_its_cost(name):
    kind = docs.class_of(name)
    missing = [label for label in docs.SECTIONS if not docs.section(kind, label)]
    assert missing == []
    assert "pass" in docs.section(kind, "Cost")


@pytest.mark.parametrize("name", docs.names())
def test_a_page_has_its_configuration_and_class(name):
    page = docs.page(name)
    assert (docs.CONFIGS / f"{name}.yaml").read_text().strip() in page
    assert f"\n::: {docs.path_of(name)}\n" in page
    assert page.count("```") == 4


def test_the_overview_has_every_method_once():
    overview = docs.index()
    assert [name for name in docs.names() if overview.count(f"({name}.md)") != 1] == []


def test_kinds():
    kinds = {name: docs.kind_of(docs.class_of(name)) for name in docs.names()}
    assert kinds["deeplab"] == "Trained once"
    assert kinds["grad_cam"] == kinds["attention_rollout"] == "From the inside of the classifier"
    assert kinds["extremal"] == kinds["refined"] == "Optimized for each image"
    assert kinds["rise"] == kinds["sloc"] == "From the classifier's answers alone"
    assert kinds["random"] == "Controls"


def test_sections_are_read_from_the_class_or_its_bases():
    class Base(docs.Explainer):
        """A map. Cost for each image, with n steps: n
        passes.

        Source: someone.
        """

    class Other(Base):
        """Another one.

        Costs nothing to say. Source of the loss: a paper.

        Args:
            cost: Something else.
        """

    assert docs.section(Base, "Cost") == "Cost for each image, with n steps: n passes."
    assert docs.section(Other, "Cost") == "Cost for each image, with n steps: n passes."
    assert docs.section(Other, "Source") == "Source of the loss: a paper."


def test_pictures_are_small_and_of_methods():
    assert len(PICTURES) > 30
    assert {path.stem for path in PICTURES} <= {*docs.names(), "photograph"}
    sizes = [path.stat().st_size for path in PICTURES]
    assert max(sizes) < 8_000
    assert sum(sizes) < 300_000


def test_the_list_of_cheap_settings_names_methods():
    spec = importlib.util.spec_from_file_location("docs_pictures", "docs/pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert {*pictures.CHEAP, *pictures.CHECKPOINTS, *pictures.NOTHING_TO_SEE} <= set(docs.names())
    assert Path(pictures.FOLDER) == docs.PICTURES
