"""Films are made as in tests of the data, models as in those of the evaluators."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "data"), str(TESTS / "evaluation")]
