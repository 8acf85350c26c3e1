"""`python -m train`."""

import sys

from train.requirements import import_failure

try:
    from train.cli import main
except ImportError as error:
    failure = import_failure(error)
    print(f"error: {failure}", file=sys.stderr)
    sys.exit(failure.exit_code)

main()
