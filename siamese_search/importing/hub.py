"""Files from a hub, kept in its client's cache. Knows nothing of networks."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from siamese_search.embedding.backbones import WEIGHTS, from_hub, require_hub
from siamese_search.errors import EncoderError
from siamese_search.importing.beside import OPEN_CLIP, PREPROCESSOR, README, TIMM
from siamese_search.importing.files import INDEX

PREFIX = "hf-hub:"


def fetched(repository: str) -> Path:
    """A folder with the files of a repository, ``org/name`` or ``org/name@revision``.

    What the cache has is not asked for. Raises EncoderError, soon and with the way out, where the
    hub does not answer, has no such repository, or has no safetensors of it.
    """
    name, _, revision = repository.partition("@")

    def cached(file: str) -> str | None:
        found = huggingface_hub.try_to_load_from_cache(name, file, revision=revision or None)
        return found if isinstance(found, str) else None

    def got(file: str) -> Path | None:
        found = from_hub(name, file, revision or None)
        return None if found is None else Path(found)

    try:
        for file in (*WEIGHTS, INDEX):
            config, weights = cached(TIMM), cached(file)
            if weights is not None and file != INDEX:
                return Path(config or weights).parent
        require_hub()
        config_file = got(TIMM)
        found = next(filter(None, map(got, (*WEIGHTS, INDEX))), None)
        if found is None:
            raise EncoderError(
                f"{PREFIX}{repository} has no safetensors: siasearch reads no pickles; download"
                " the weights, convert them where you trust them, and name them by --weights"
            )
        if found.name == INDEX:
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=["model-*.safetensors"]
            )
        for file in (PREPROCESSOR, OPEN_CLIP, README):
            got(file)
    except EncoderError:
        raise
    except Exception as error:  # the hub's client raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"{PREFIX}{repository} cannot be had: {reason}; without a network, bring its files and"
            " name them: --checkpoint-folder DIR, or --weights FILE.safetensors"
        ) from error
    return (config_file or found).parent
