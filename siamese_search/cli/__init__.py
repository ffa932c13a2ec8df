"""The command line: parse, call the library, print, exit.

Importing it loads neither numpy nor FAISS nor OpenVINO nor torch: commands import what they need
when they run, so that `--help` and usage errors are instant.
"""

from siamese_search.cli.app import app, main

__all__ = ["app", "main"]
