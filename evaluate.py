"""Score and explain: python evaluate.py {test,predict,validate,explain,report,export}."""

import sys

from explainers.cli import EvaluateCLI, main

if __name__ == "__main__":
    sys.exit(main(EvaluateCLI))
