"""``refine``, and ``python -m refine.cli``."""

import sys

from refine.interrupts import ignore


def run() -> None:
    """Run a command, whose import may be interrupted too."""
    try:
        from .main import main

        main()
    except KeyboardInterrupt:
        ignore()
        sys.exit("\nAborted!")
    except SystemExit as ended:
        if ended.code:
            ignore()
        raise
    finally:
        exec("")  # Python remembers an interruption inside of an exec until the next one, and would end by SIGINT


if __name__ == "__main__":
    run()
