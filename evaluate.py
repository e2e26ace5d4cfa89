"""Score and rank explainers, or explain images: python evaluate.py {test,predict,validate}."""

import sys

from explainers.cli import EvaluateCLI, main

if __name__ == "__main__":
    sys.exit(main(EvaluateCLI))
