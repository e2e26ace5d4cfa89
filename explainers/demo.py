"""A page on this machine: drop a photograph, see what explains its class.

Nothing leaves the machine. Needs gradio: pip install 'learned-explainers[demo]'.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec


def line() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("python -m explainers.demo", description=__doc__)
    found.add_argument(
        "--ckpt",
        action="append",
        default=[],
        help="checkpoint of a trained explainer, or NAME=FILE",
    )
    found.add_argument("--method", help="methods at the start, as in explain; else fast ones")
    found.add_argument("--model", help="classifier, as in explain")
    found.add_argument("--port", type=int, default=7860, help="port on this machine")
    found.add_argument(
        "--trust", action="append", default=[], help="package that checkpoints may name"
    )
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Serves the page until Ctrl-C.

    Returns:
        0 after Ctrl-C, 2 if something is missing or wrong.
    """
    given = line().parse_args(words)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if find_spec("gradio") is None:
        print(
            "error: the demo needs gradio: pip install 'learned-explainers[demo]'", file=sys.stderr
        )
        return 2
    print("loading ...", file=sys.stderr)
    from explainers.explaining.page import Page  # takes seconds, --help does not
    from explainers.messages import one_line

    try:
        page = Page.of(given.ckpt, given.method, given.model, given.trust)
        served = page.serve(given.port)
        print(f"{served.local_url} (Ctrl-C ends it)", flush=True)
        served.block_thread()
    except Exception as error:
        told = one_line(error, "python -m explainers.demo")
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
