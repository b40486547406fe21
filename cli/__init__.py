"""Command line of refine, installed as ``refine.cli``: thin layers over the library, one file a command."""
