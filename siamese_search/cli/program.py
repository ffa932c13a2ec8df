"""The program: by what words it was called, so that commands in messages can be typed as they are.

Messages of all floors name it ``siasearch``; ``spoken`` says it as it was called.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "siasearch"
# In messages a command stands in backticks, or begins a line of its own.
COMMAND = re.compile(rf"(?<=`){NAME}(?= )|^( *){NAME}(?= )", re.MULTILINE)


def program() -> str:
    """What to type for this program: its name where that is found, else how it was called."""
    called = sys.argv[0]
    if os.path.basename(called) == "__main__.py":
        python = os.path.basename(sys.orig_argv[0] or "python")
        here = shutil.which(python)
        same = here is not None and os.path.samefile(here, sys.executable)
        return f"{python if same else shlex.quote(sys.executable)} -m {__package__.split('.')[0]}"
    if os.path.basename(called) == called:
        return NAME
    found = shutil.which(NAME)
    same = found is not None and os.path.exists(called) and os.path.samefile(found, called)
    return NAME if same else shlex.quote(called)


def spoken(text: str) -> str:
    """A message with its commands as this program is called."""
    called = program()
    return text if called == NAME else COMMAND.sub(lambda found: (found[1] or "") + called, text)


def command(words: str, gallery: Path, default: Path) -> str:
    """A command of this program about a gallery; ``default`` is the one that need not be named."""
    named = gallery == default or os.environ.get("SIASEARCH_GALLERY") == str(gallery)
    place: Sequence[str] = () if named else ("-g", shlex.quote(str(gallery)))
    return " ".join([program(), words, *place])
