"""The pages of docs are what the classes say."""

import importlib.util

import pytest

SPEC = importlib.util.spec_from_file_location("docs_metrics", "docs/metrics.py")
docs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docs)


def test_the_page_of_the_metrics_is_up_to_date():
    assert docs.PAGE.read_text() == docs.page(), "run: python docs/metrics.py"


@pytest.mark.parametrize("kind", docs.classes(), ids=lambda kind: kind.__name__)
def test_every_metric_says_its_range_cost_blind_spot_and_source(kind):
    missing = [label for label in docs.SECTIONS if not docs.section(kind, label)]
    assert missing == []


def test_what_is_said_is_read():
    class Base:
        """A metric. Cost for each image, with n steps: n passes,
        and one more.

        Blind to: much.
        """

    class Other(Base):
        """Another one.

        Range: [0, 1].
        """

    assert docs.section(Other, "Range") == "[0, 1]."
    assert docs.section(Other, "Cost") == "For each image, with n steps: n passes, and one more."
    assert docs.section(Other, "Blind to") == "much."
    assert docs.section(Other, "Source") == ""
