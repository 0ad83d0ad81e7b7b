"""The command line: `python -m kvqueue_fastapi`."""

import sys

from kvqueue_fastapi.cli import main

if __name__ == "__main__":
    sys.exit(main())
