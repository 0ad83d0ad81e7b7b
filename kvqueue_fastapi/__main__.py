"""The command line: `python -m kvqueue_fastapi`, which is `kvqueue`."""

import sys

from kvqueue_fastapi.cli import main

if __name__ == "__main__":
    sys.exit(main())
