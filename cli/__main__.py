"""``refine``, and ``python -m refine.cli``."""

import sys
from collections import namedtuple

from refine.interrupts import ignore


def run() -> None:
    """Run a command, whose import may be interrupted too."""
    try:
        from .main import main

        main()
    except KeyboardInterrupt:
        ignore()
        sys.exit("\nAborted!")
    except SystemExit:
        ignore()  # all is done or said
        raise
    finally:
        # An import that is interrupted in generated code makes Python end by SIGINT, until the next such code has run.
        namedtuple("_", "")


if __name__ == "__main__":
    run()
