"""The commands that the README and the docs show, and what they print.

An example is an indented block whose first line is a prompt, ``$``, and a command. Lines below it
are its standard output. The examples of a page are run one after another in one folder, in which
``siasearch demo`` has been run. A test compares the words that they print, and the scores about;

    python docs/examples.py [PAGE...]

writes what they print now into the pages, all of them unless some are named.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DEMO = "siasearch demo"
BLOCK = re.compile(r"(?:^(?:    .*| *)\n)*^    .*\n", re.MULTILINE)
PROMPT = "    $ "
SCORE = re.compile(r"(?<![\d.])-?[01]\.\d{3,}(?![\d.])")
NEAR = 0.03  # between the scores of two processors, one of which computes in bfloat16
HERE = "/home/you"  # what the pages call the folder in which their examples are run


def examples(page: str) -> list[tuple[str, str]]:
    """(command, output) of every example on a page."""
    found = []
    for block in BLOCK.findall(page):
        if block.lstrip("\n").startswith(PROMPT):
            for one in _split(block):
                command, *output = [line[4:] for line in one.strip("\n").splitlines()]
                found.append((command[2:], "\n".join(output).strip("\n")))
    return found


def _split(block: str) -> Iterator[str]:
    """A block with several prompts is several examples."""
    yield from re.split(r"^(?=    \$ )", block, flags=re.MULTILINE)[1:]


def run(command: str, folder: Path) -> str:
    """What a command prints on standard output. Raises RuntimeError where it is stopped."""
    # Where pip has put the command.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"SIASEARCH_DEVICE": "cpu", "PATH": path, "PYTHONUTF8": "1"},
    )
    if result.returncode not in (0, 1):  # 1: the answer is no
        raise RuntimeError(f"{command}: {result.stderr}")
    return shown(result.stdout, folder)


def shown(printed: str, folder: Path) -> str:
    """What was printed in a folder, as pages show it."""
    lines = printed.replace(os.path.realpath(folder), HERE).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def outputs(
    page: str,
    demo: Path,
    demo_says: str,
    folder: Path,
    run: Callable[[str, Path], str] = run,
) -> Iterator[tuple[str, str, str]]:
    """(command, output on the page, output now) of a page's examples, run in a new ``folder``.

    ``demo`` is a folder in which ``siasearch demo`` has printed ``demo_says``.
    """
    shutil.copytree(demo, folder)
    for command, expected in examples(page):
        yield command, expected, demo_says if command == DEMO else run(command, folder)


def without_digits(text: str) -> str:
    """Without what differs: last digits of scores between processors, names of index files."""
    return re.sub(r"index-\S+\.faiss|[\d.]+", "#", text).strip()


def alike(old: str, new: str) -> bool:
    """Whether outputs say the same: the words, and scores as near as processors round."""
    pairs = zip(SCORE.findall(old), SCORE.findall(new), strict=False)
    near = all(abs(float(a) - float(b)) <= NEAR for a, b in pairs)
    return near and without_digits(old) == without_digits(new)


def main(pages: list[Path]) -> None:
    """Write into pages what their examples print."""
    with tempfile.TemporaryDirectory() as scratch:
        demo = Path(scratch, "demo")
        demo.mkdir()
        demo_says = run(DEMO, demo)
        for number, path in enumerate(pages):
            page = left = path.read_text(encoding="utf-8")
            written = ""
            for command, old, new in outputs(page, demo, demo_says, Path(scratch, str(number))):
                block = _block(command, old)
                before, found, left = left.partition(block)
                if not found:
                    raise RuntimeError(f"{command}: cannot find its output on {path}")
                written += before + (block if alike(old, new) else _block(command, new))
            if written + left != page:
                path.write_text(written + left, encoding="utf-8")
                print(f"{path.relative_to(ROOT)} is written anew")


def _block(command: str, output: str) -> str:
    lines = [f"$ {command}", *(output.splitlines() if output else [])]
    return "".join(f"    {line}".rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    main([Path(name).resolve() for name in sys.argv[1:]] or PAGES)
