"""Choosing: which files of a folder are left out, and what identities are called where something
else than their folders says so.

Knows paths alone, and opens nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from siamese_search.errors import UsageError

Naming = Callable[[str, str], "str | None"]
"""The identity of a file by what was named, the folder or the file, and its own path, both
absolute; None where it has none."""


@dataclass(frozen=True)
class Exclusion:
    """Files and folders to leave out, by patterns of their names as the shell has them: ``*.gif``.

    A pattern with a slash is of the path below the folder that was named (``old/*.png``, ``a/b``),
    where ``*`` stands for slashes, too.
    """

    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Exclusion:
        """The exclusion of these patterns. Raises UsageError for an empty one."""
        found = []
        for pattern in patterns:
            cleaned = pattern.removeprefix("./").rstrip("/")
            if not cleaned:
                raise UsageError(f"{pattern!r} excludes nothing: give a pattern, as '*.gif'")
            found.append(cleaned)
        return cls(tuple(found))

    def __call__(self, inside: str) -> bool:
        """Whether to leave out what has this path below the folder that was named."""
        name = os.path.basename(inside)
        return any(
            fnmatchcase(inside if "/" in one else name, one.removeprefix("/"))
            for one in self.patterns
        )


NOTHING: Final = Exclusion()


def inside(root: str, path: str) -> str:
    """A path below the folder that was named, with ``/`` between its parts; a file that was named
    itself is its name.
    """
    if path == root:
        return os.path.basename(path)
    return path[len(root.rstrip(os.sep)) + 1 :].replace(os.sep, "/")


def stem(name: str) -> str:
    """The name of a picture that is an identity of its own: its file's, without the suffix."""
    return os.path.splitext(name)[0]


def flat(root: str, path: str) -> str:
    """The name of the folder that was named; of a file that was named itself, its own."""
    return stem(os.path.basename(path)) if path == root else os.path.basename(root)


def naming(way: str) -> Naming:
    """How identities are named: by the ``parent`` folder, the ``stem`` of the file, or what a
    regular expression finds in the path below the folder that was named.

    Of an expression it is the group called ``identity``, else the first group that took part, else
    all that it matches. Raises UsageError for what is none of these.
    """
    if way == "parent":
        return lambda root, path: os.path.basename(os.path.dirname(path))
    if way == "stem":
        return lambda root, path: stem(os.path.basename(path))
    try:
        expression = re.compile(way)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{way!r} is no regular expression: {error}") from error
    if re.escape(way) == way:
        raise UsageError(
            f"{way!r} names no identity: give parent, stem or a regular expression, as '^[^_]+'"
        )

    def found(root: str, path: str) -> str | None:
        match = expression.search(inside(root, path))
        if match is None:
            return None
        if "identity" in expression.groupindex:
            return match["identity"]
        return next((one for one in match.groups() if one is not None), match[0])

    return found
