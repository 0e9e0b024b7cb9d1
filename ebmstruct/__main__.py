"""``python -m ebmstruct`` is the command."""

import sys

from ebmstruct.cli import main

if __name__ == "__main__":
    sys.exit(main())
