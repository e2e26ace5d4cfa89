"""One line a trial: `ok   kill-test-07  SIGKILL after 1.3 s: resumed, all figures equal`."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture
def say(record_property):
    """What a trial's line tells, beside its name."""
    return lambda text: record_property("said", text)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """The trials run in the order of their files, also under pytest-randomly."""
    order = {item.nodeid: place for place, item in enumerate(items)}
    yield
    if all(FOLDER in item.path.parents for item in items):
        items.sort(key=lambda item: order[item.nodeid])


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report):
    if "tests/reliability" not in report.nodeid or (report.when != "call" and report.passed):
        return None
    name = report.nodeid.partition("[")[2].rpartition("]")[0]
    name = name or report.nodeid.rpartition("::test_")[2].replace("_", "-")
    said = "; ".join(text for key, text in report.user_properties if key == "said")
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(getattr(crash, "message", None) or report.longrepr).strip().splitlines()
        said = (message or ["?"])[0][:200]
    if report.skipped:
        said = str(report.longrepr[-1])
    word = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}[report.outcome]
    category = "error" if report.failed and report.when != "call" else report.outcome
    return category, f"{word:<4} {name:<36} {said}\n", word
