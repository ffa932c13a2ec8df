"""``watch``: enrol, or name, what appears in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DEFAULT_GALLERY,
    DecodingOption,
    DeviceOption,
    EncoderOption,
    GalleryOption,
    JsonLinesOption,
    ThresholdOption,
    conditions,
    decode_as,
    near,
    note,
    open_gallery,
    print_json,
    say,
    share,
    tell_rejected,
)
from siamese_search.cli.enroll import tell_calibrated, tell_of
from siamese_search.cli.filming import until_stopped
from siamese_search.cli.finding import (
    ExcludeOption,
    FlatOption,
    IdentityFromOption,
    naming_by,
)
from siamese_search.cli.identify import SHOWN, as_json_object, described, warn_of_rate
from siamese_search.cli.program import command
from siamese_search.errors import StorageError, UsageError
from siamese_search.files import require_place
from siamese_search.pictures.choosing import Exclusion, Naming
from siamese_search.pictures.find import find_images
from siamese_search.pictures.sources import normalised, renamed
from siamese_search.pictures.watching import Files, Folder, Listener, Look, Status, looks, status_of
from siamese_search.records import ImageFile, Misnamed, Rejection
from siamese_search.words import counted, printable, same_picture

if TYPE_CHECKING:
    from siamese_search.gallery.gallery import Gallery
    from siamese_search.pictures.kind import Kind

AT_ONCE = 256  # files that are enrolled before anything is said of them
ENROLLING = ("--label", "--flat", "--identity-from", "--copy")
ASKING = ("--k", "--threshold", "--fpir", "--where", "--turns", "--keep-unknown", "--out")


def watch(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="What is watched.")],
    gallery: GalleryOption = DEFAULT_GALLERY,
    query: Annotated[
        bool, typer.Option("--query", help="Name what appears, as `query` does; enrol nothing.")
    ] = False,
    label: Annotated[
        str | None, typer.Option("--label", "-l", help="The identity of all that appears.")
    ] = None,
    flat: FlatOption = False,
    identity_from: IdentityFromOption = None,
    exclude: ExcludeOption = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Keep a copy of every image in the gallery.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="With --query: add every answer to this file, too, as JSON Lines. What it has is"
            " not asked about again, also after a restart.",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", min=1, help="How many identities to show (5).")
    ] = None,
    threshold: ThresholdOption = None,
    fpir: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="Name about this share of strangers; needs a calibrated gallery.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Search only items with this metadata; repeatable."),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="N", help="Look at each picture in so many turns."),
    ] = None,
    keep_unknown: Annotated[
        bool,
        typer.Option("--keep-unknown", help="Keep images that get no name, for `unknowns`."),
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=3600,
            metavar="SECONDS",
            help="How long a file's size and time must stand still before it is looked at.",
        ),
    ] = 1.0,
    poll: Annotated[
        float | None,
        typer.Option(
            min=0.2,
            max=86400,
            metavar="SECONDS",
            help="Look through the folder so often, rather than when the system tells of changes.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    decoding: DecodingOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Enrol what appears in a folder, or name it with --query, until Ctrl-C or SIGTERM.

    Identities are as with `add`: an image's is its folder's path relative to FOLDER; an image
    directly in FOLDER is its own, named by its file, unless --label, --flat or --identity-from
    says otherwise. What is in FOLDER at the start is enrolled, too, and what is enrolled already is
    skipped; so the same command goes on after any stop. A file is looked at once its size and time
    have stood still for a second, and again when it has changed. Items stay when their files go.

    With --query, what is in FOLDER at the start is not asked about, unless --out names a file: then
    all is that this file has no answer to.

    With --json, a line is {"image", "identity", "item"} for each image that was enrolled; with
    --query it is what `query --json` prints, with "size" and "modified" of the file. Paths are
    absolute.
    """
    decode_as(decoding)
    asking = (k, threshold, fpir, where, turns, keep_unknown or None, out)
    enrolling = (label, flat or None, identity_from, copy or None)
    _require_one_use(query, dict(zip(ENROLLING, enrolling, strict=True)), "--query enrols nothing")
    _require_one_use(not query, dict(zip(ASKING, asking, strict=True)), "nothing is asked about")
    naming, leave_out = naming_by(label, flat, identity_from), Exclusion.of(exclude or ())
    if not os.path.isdir(folder):
        raise UsageError(f"{printable(folder)} is no folder: name one that is there")
    if fpir is not None and threshold is not None:
        raise UsageError("--fpir chooses a threshold: leave out --threshold")
    if label is not None:
        name = normalised(label)
        naming = lambda root, path: name  # noqa: E731
    with _one_gallery(gallery, query, encoder, device) as target:
        found = partial(_found, folder, target.encoder.kind, leave_out, naming)
        if not query:
            done = _Enrolling(target, gallery, copy, as_json)
            watched = Folder(folder, found, settle, again=done.again)
            _watch(watched, poll, done, "their items stay")
            return
        if turns is not None and turns > 1:
            target.encoder.require_pictures("turns")
        if turns is not None or threshold is None:
            warn_of_rate(target, turns or 1, threshold)
        ask = partial(
            target.identify_each,
            k=SHOWN if k is None else k,
            threshold=threshold,
            where=conditions(where) if where else None,
            fpir=fpir,
            turns=turns or 1,
            keep_unknown=keep_unknown,
        )
        answers = None if out is None else Answers(out)
        watched = Folder(folder, found, settle, None if answers is None else answers.done)
        if answers is None and (there := watched.skip()):
            see = command("query", gallery, DEFAULT_GALLERY)
            note(f"{counted(there, 'file')} there already, and not asked about: `{see}` does that")
        with closing(_Asking(target, ask, answers, where, as_json)) as asking_of:
            _watch(watched, poll, asking_of, "their answers stay")


def _require_one_use(idle: bool, options: Mapping[str, object], why: str) -> None:
    """Raise UsageError for an option that would do nothing, since these are ``idle``."""
    for option, value in options.items():
        if idle and value is not None and value != []:
            way_out = "leave it out" if option in ENROLLING else "it needs --query"
            raise UsageError(f"{why}, so {option} does nothing: {way_out}")


@contextmanager
def _one_gallery(
    folder: Path, query: bool, encoder: str | None, device: str | None
) -> Iterator[Gallery]:
    """The gallery; made where there is none and it is to be enrolled into."""
    from siamese_search.gallery.gallery import Gallery

    if query:
        with open_gallery(folder, encoder, device) as target:
            yield target
        return
    if encoder is None and not Gallery.exists(folder):
        encoder = DEFAULT_ENCODER
    with Gallery.open(folder, encoder, device, background=True) as target:
        yield target


def _found(folder: str, kind: Kind, leave_out: Exclusion, naming: Naming | None) -> Files:
    root = os.path.abspath(folder)
    for file in find_images(root, kind=kind, exclude=leave_out):
        if naming is None or isinstance(file, Rejection):
            yield file
        else:
            yield renamed(file, root, naming)


def _watch(folder: Folder, poll: float | None, do: Any, stays: str) -> None:
    """Have ``do`` work on what appears, until it is interrupted. Raises typer.Exit with code 1
    where something was rejected.
    """
    with (
        until_stopped(do.said),
        Listener(folder.root, poll, lambda why: note(f"note: {why}")) as listener,
    ):
        note(f"watching {printable(folder.root)}: Ctrl-C ends it")
        for look in looks(folder, listener):
            _tell(look, folder.root, stays)
            for begin in range(0, len(look.new), AT_ONCE):
                do(look.new[begin : begin + AT_ONCE])
    if do.rejected:
        raise typer.Exit(1)


def _tell(look: Look, root: str, stays: str) -> None:
    if look.missing:
        note(f"note: {printable(root)} is gone: waiting until it is there again")
    if look.gone:
        more = f" and {len(look.gone) - 1} more" if len(look.gone) > 1 else ""
        note(f"note: gone from the folder: {near(printable(look.gone[0]))}{more}; {stays}")


class _Enrolling:
    """Enrols files, and says so."""

    def __init__(self, target: Gallery, folder: Path, copy: bool, as_json: bool) -> None:
        self._target = target
        self._folder = folder
        self._copy = copy
        self._as_json = as_json
        self._before = len(target)
        self._added = 0
        self.rejected: set[str] = set()
        self._misnamed: dict[str, Misnamed] = {}  # by the paths of their files
        self._version = ""

    def __call__(self, files: Sequence[ImageFile | Rejection]) -> None:
        report = self._target.enroll_found(files, copy=self._copy)
        self._added += report.added
        self.rejected -= {printable(file.path) for file in files}  # it may be whole now
        self.rejected |= {one.path for one in report.rejected}
        misnamed = {one.path: one for one in report.rejected if isinstance(one, Misnamed)}
        for file in files:
            self._misnamed.pop(file.path, None)
            if (one := misnamed.get(printable(file.path))) is not None:
                self._misnamed[file.path] = one
        for item in self._target.items_by_number(report.numbers):
            if self._as_json:
                print_json({"image": item.source, "identity": item.identity, "item": item.number})
            else:
                say(f"{near(item.source or '')}: enrolled as {item.identity} (item {item.number})")
        if report.skipped:
            note(f"{counted(report.skipped, 'image')} skipped (enrolled already)")
        tell_of(report, self._folder)
        tell_calibrated(report, self._folder)

    def again(self) -> list[str]:
        """The files that came under another name than their picture's, which it no longer has."""
        version = self._target.version
        if not self._misnamed or version == self._version:
            return []
        self._version = version
        items = self._target.items_by_number({one.item for one in self._misnamed.values()})
        reasons = {item.number: same_picture(item.identity) for item in items}
        return [path for path, one in self._misnamed.items() if one.reason != reasons.get(one.item)]

    def said(self) -> str:
        """In words, what was done."""
        items = len(self._target)
        added = max(self._added, items - self._before)  # also of a batch that was interrupted
        return f"{added} enrolled, {len(self.rejected)} rejected; {counted(items, 'item')} now"


class _Asking:
    """Names files, and says so."""

    def __init__(
        self,
        target: Gallery,
        ask: Callable[..., Any],
        answers: Answers | None,
        where: list[str] | None,
        as_json: bool,
    ) -> None:
        self._target = target
        self._ask = ask
        self._answers = answers
        self._where = where
        self._as_json = as_json
        self._answered = 0
        self.rejected: set[str] = set()

    def __call__(self, files: Sequence[ImageFile | Rejection]) -> None:
        from siamese_search.errors import ImageError

        seen: dict[str, Status] = {}  # before they are read: what changes meanwhile is new
        self.rejected -= {printable(file.path) for file in files}
        for file in files:
            if isinstance(file, Rejection):
                self._reject(file.path, file.reason)
            elif (status := status_of(file)) is not None and len(status) == 2:
                seen[file.path] = status
        for path, answer in self._ask(list(seen)):
            if isinstance(answer, ImageError):
                self._reject(path, str(answer))
                continue
            found = self._target.items_by_number([match.item for match in answer.matches])
            metadata = {item.number: item.metadata for item in found}
            size, modified = seen[path]
            line = {"image": path, **as_json_object(answer, metadata)}
            line |= {"size": size, "modified": modified}
            if self._answers is not None:
                self._answers.add(line)
            self._answered += 1
            if self._as_json:
                print_json(line)
            else:
                typer.echo(described(near(path), answer, metadata, self._where))

    def _reject(self, path: str, reason: str) -> None:
        self.rejected.add(printable(path))
        tell_rejected(printable(path), reason)

    def said(self) -> str:
        """In words, what was done."""
        return f"{counted(self._answered, 'image')} named or unknown, {len(self.rejected)} rejected"

    def close(self) -> None:
        """Let go of the file of answers."""
        if self._answers is not None:
            self._answers.close()


BEGIN = b'{"image": '  # of a line of answers


class Answers:
    """A file of answers, which also says what was answered already.

    A line that a stop has cut off is taken away: its file is asked about again. Where the file is
    moved or deleted meanwhile, further answers go to a new one.
    """

    def __init__(self, path: Path) -> None:
        self.done: dict[str, Status] = {}
        self._path = path
        self._file: BinaryIO
        self._open()

    def _open(self) -> None:
        path = self._path
        require_place(path)
        try:
            self._file = open(path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"{path} could not be written: {error.strerror}") from error
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n") and (BEGIN.startswith(line) or line.startswith(BEGIN)):
                break
            try:
                answer = json.loads(line)
                self.done[answer["image"]] = answer["size"], answer["modified"]
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                self._file.close()
                raise UsageError(
                    f"{path}, line {number}, is not what `siasearch watch --query --out` writes:"
                    " name another file"
                ) from error
            whole += len(line)
        self._file.truncate(whole)

    def add(self, line: Mapping[str, object]) -> None:
        """Add an answer, which outlasts this process from then on."""
        try:
            here = os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:  # where it cannot be told, opening it says why
            here = False
        if not here:
            self._file.close()
            self._open()
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(watch)
