"""``embed``: embeddings of some pictures as a table, for a gallery on another machine."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from siamese_search.cli.common import (
    DEFAULT_ENCODER,
    DecodingOption,
    DeviceOption,
    EncoderOption,
    JsonOption,
    YesOption,
    decode_as,
    name_rejections,
    note,
    print_json,
    progress_bar,
    say,
)
from siamese_search.cli.finding import (
    ExcludeOption,
    FlatOption,
    IdentityFromOption,
    LabelOption,
    ManifestOption,
    PassedOver,
    naming_by,
    require_paths,
)
from siamese_search.cli.naming import noting, settle_label, settle_names, warn_of_unknown
from siamese_search.errors import UsageError
from siamese_search.pictures.choosing import Exclusion
from siamese_search.pictures.find import Passed
from siamese_search.pictures.sources import Files, find, read_manifest
from siamese_search.words import counted

MOST_PARTS = 1_000_000


def embed(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Images, or folders of them.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The table: .parquet or .npz.")
    ] = ...,  # type: ignore[assignment]
    part: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Take the K-th of N parts of all these images: N machines that are given the same"
            " folder then share the work.",
        ),
    ] = None,
    label: LabelOption = None,
    manifest: ManifestOption = None,
    exclude: ExcludeOption = None,
    flat: FlatOption = False,
    identity_from: IdentityFromOption = None,
    yes: YesOption = False,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    decoding: DecodingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed images without a gallery, as a table that `import` enrols: the work of many machines,
    which share nothing but where they write.

    Identities are named as by `add`; as that, it asks, or needs --yes, where several pictures are
    identities of their own by their files. A table that is there is left as it is, and a run that
    was ended goes on where it was when it is started again: so a failed task is simply run again.
    """
    from siamese_search.embedding.encoder import Encoder
    from siamese_search.gallery.shards import embed_shard, part_of

    decode_as(decoding)
    if not paths and manifest is None:
        raise UsageError("name images or folders to embed, or a --manifest")
    naming = naming_by(label, flat, identity_from)
    require_paths(paths, naming, exclude)
    if label is not None and manifest is not None:
        raise UsageError("--label and --manifest both name identities: use one")
    number, parts = _part(part)
    opened = Encoder.open(encoder or DEFAULT_ENCODER, device)
    passed, kind, leave_out = PassedOver(), opened.kind, Exclusion.of(exclude or ())
    listed = list(read_manifest(str(manifest))) if manifest else []

    def found(passed: Passed = lambda path, why: None) -> Files:
        files = chain(find(paths or (), label, passed, kind, leave_out, naming), listed)
        return files if parts == 1 else part_of(files, number, parts)

    if label is not None:
        settle_label(paths or (), label, yes)
    elif naming is None:
        settle_names(paths or (), None, yes, kind, leave_out)
    asked = {
        "paths": [str(Path(path).absolute()) for path in paths or ()],
        "part": [number, parts],
        "label": label,
        "manifest": [vars(one) for one in listed],
        "exclude": list(exclude or ()),
        "flat": flat,
        "identity_from": identity_from,
    }
    names = set[str]()
    with progress_bar("embedding", lambda: sum(1 for _ in found())) as watch:
        files = noting(found(passed), names)
        made = embed_shard(files, out, opened, asked, watch, empty=parts > 1)
    warn_of_unknown(names)
    passed.tell(kind)
    name_rejections(made.rejected)
    if made.already:
        note(f"{out} is there already: delete it to make it anew")
    if as_json:
        rejected = [{"path": one.path, "reason": one.reason} for one in made.rejected]
        said = {"file": str(out), "items": made.items, "skipped": made.skipped}
        print_json(said | {"rejected": rejected, "already": made.already})
    else:
        more = f", {made.skipped} skipped (the same content)" if made.skipped else ""
        say(f"{out}: {counted(made.items, 'item')}{more}, {len(made.rejected)} rejected")
    if made.rejected:
        raise typer.Exit(1)


def _part(text: str | None) -> tuple[int, int]:
    """K and N of K/N; 1 of 1 where nothing is said."""
    if text is None:
        return 1, 1
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts <= MOST_PARTS:
        raise UsageError(f"--part is {text!r}: write K/N, as 1/100, with K from 1 to N")
    return number, parts


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(embed)
