"""Score, explain, or publish: python evaluate.py {test,predict,validate,export}."""

import sys

from explainers.cli import EvaluateCLI, main

if __name__ == "__main__":
    sys.exit(main(EvaluateCLI))
