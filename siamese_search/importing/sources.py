"""What a source names: a network that timm knows, and the files with its weights.

Reads descriptions, no weights, and builds nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor

from siamese_search.errors import EncoderError, UsageError
from siamese_search.importing import beside, files, hub, transformers
from siamese_search.importing.stated import Stated, from_open_clip, from_preprocessor, from_timm

PAGE = "https://huggingface.co/"
NAMED = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A network's description, and the files with its weights.

    ``settled`` is timm's ``pretrained_cfg``, ``arguments`` what the network is built with, ``says``
    how it takes pictures.
    """

    backbone: str
    settled: dict[str, Any]
    arguments: dict[str, Any]
    weights: list[Path]
    says: Stated
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    origin: dict[str, Any]


def source_of(source: str, weights: Path | None, folder: Path | None) -> Source:
    """The network that a timm name, ``hf-hub:org/name`` or a folder names.

    Its weights are those of a file, of a ``folder``, or its published ones. Raises UsageError for
    what makes no sense, EncoderError where weights or descriptions cannot be had or used.
    """
    _require_sound(source, weights, folder)
    if source.startswith(hub.PREFIX):
        repository = source.removeprefix(hub.PREFIX)
        if not NAMED.fullmatch(repository):
            raise UsageError(f"{source!r} names no repository: write {hub.PREFIX}org/name")
        origin = {"source": source, "url": PAGE + repository.partition("@")[0]}
        return _in_folder(folder or hub.fetched(repository), weights, origin)
    if timm.is_model(source):
        return _named(source, weights, folder)
    if Path(source).is_dir():
        if folder is not None:
            raise UsageError(f"{source} is a folder with weights: leave out --checkpoint-folder")
        return _in_folder(Path(source), weights, {"source": source})
    near = timm.list_models(f"*{source.partition('.')[0]}*")[:3] if NAMED.fullmatch(source) else []
    meant = f"; timm knows {', '.join(near)}" if near else ""
    raise UsageError(
        f"{source!r} is no network that timm knows, and no folder: name one, as"
        f" vit_small_patch14_dinov2.lvd142m or {hub.PREFIX}org/name{meant}"
    )


def _require_sound(source: str, weights: Path | None, folder: Path | None) -> None:
    """Raise UsageError or EncoderError for what cannot be, before anything is read."""
    if weights is not None and folder is not None:
        raise UsageError("--weights and --checkpoint-folder both name weights: give one of them")
    if source.lower().endswith(files.PICKLES):
        files.require_safetensors(Path(source))
    if source.lower().endswith(".safetensors"):
        raise UsageError(
            f"{source} has weights alone: name the network, too, as `siasearch encoder import"
            f" vit_small_patch14_dinov2 --weights {source}`"
        )
    if weights is not None:
        files.require_safetensors(weights)
        if not weights.is_file():
            raise UsageError(f"there is no file {weights}")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")


def _named(source: str, weights: Path | None, folder: Path | None) -> Source:
    """The network of a timm name, with its published weights unless others are named."""
    try:
        cfg = timm.get_pretrained_cfg(source, allow_unregistered=False)
    except (RuntimeError, ValueError) as error:  # an unknown tag
        known = ", ".join(timm.list_pretrained(f"{source.partition('.')[0]}.*")[:6])
        raise UsageError(f"timm knows no weights {source!r}; it knows {known or 'none'}") from error
    settled = {} if cfg is None else cfg.to_dict()
    backbone = source.partition(".")[0]
    arguments: dict[str, Any] = {}
    origin: dict[str, Any] = {"source": source}
    if folder is None and weights is None:
        repository = settled.get("hf_hub_id")
        if not repository:
            raise EncoderError(
                f"nobody has published weights of {source!r}: name some: --weights"
                " FILE.safetensors, or --checkpoint-folder DIR"
            )
        folder = hub.fetched(repository)
        origin |= {"url": PAGE + repository, "licence": settled.get("license")}
    says = from_timm(settled, f"timm's {source}")
    if folder is not None:
        says = _beside(folder).over(says)
        place = folder / beside.TIMM
        config = beside.read_json(place)
        if _is_timm(config):
            other, arguments, told = _timm_fields(config, place)
            if other != backbone:
                raise UsageError(f"{place} describes {other!r}, not {backbone!r}: name that")
            settled, says = settled | told, from_timm(told, str(place)).over(says)
        if licence := beside.licence_beside(folder):
            origin["licence"] = licence
    return Source(
        backbone=backbone,
        settled=settled,
        arguments=arguments,
        weights=_weights(weights, folder),
        says=says,
        convert=dict,
        origin=origin,
    )


def _weights(weights: Path | None, folder: Path | None) -> list[Path]:
    if weights is not None:
        return [weights]
    assert folder is not None
    return files.weights_in(folder)


def _beside(folder: Path) -> Stated:
    """What the files that describe no network say of how it takes pictures."""
    shown, clip = folder / beside.PREPROCESSOR, folder / beside.OPEN_CLIP
    said = from_preprocessor(found, str(shown)) if (found := beside.read_json(shown)) else Stated()
    if found := beside.read_json(clip):
        said = said.over(from_open_clip(found, str(clip)))
    return said


def _in_folder(folder: Path, weights: Path | None, origin: dict[str, Any]) -> Source:
    """The network that a folder's files describe: in timm's, transformers' or OpenCLIP's way."""
    place = folder / beside.TIMM
    config = beside.read_json(place)
    trunk = _trunk(folder / beside.OPEN_CLIP)
    said = _beside(folder)
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    if _is_timm(config):
        backbone, arguments, settled = _timm_fields(config, place)
        says = from_timm(settled, str(place)).over(said)
    elif trunk is not None:
        backbone, arguments = trunk, {}
        cfg = timm.get_pretrained_cfg(backbone)
        settled = {} if cfg is None else cfg.to_dict()
        says = said.over(from_timm(settled, backbone))
    elif isinstance(config.get("model_type"), str):
        network = transformers.described(config, place)
        backbone, arguments, settled = network.backbone, network.arguments, network.settled
        says = said.over(from_timm(settled, str(place)))
        convert = network.converted
    else:
        raise EncoderError(
            f"{place} names no network (architecture, or model_type): name it yourself, as"
            f" `siasearch encoder import vit_small_patch14_dinov2 --checkpoint-folder {folder}`"
        )
    licence = beside.licence_beside(folder) or (_is_timm(config) and settled.get("license"))
    if licence:
        origin = origin | {"licence": licence}
    paths = _weights(weights, folder)
    return Source(backbone, settled, arguments, paths, says, convert, origin)


def _trunk(place: Path) -> str | None:
    """The timm network that an ``open_clip_config.json`` names, if there is one."""
    found: Any = beside.read_json(place)
    for name in ("model_cfg", "vision_cfg", "timm_model_name"):
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, str):
        return None
    _require_known(found, place)
    return found.partition(".")[0]


def _is_timm(config: dict[str, Any]) -> bool:
    return isinstance(config.get("architecture"), str)


def _timm_fields(config: dict[str, Any], place: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The network's name, its arguments and ``pretrained_cfg`` of a ``config.json`` of timm's."""
    inner = config.get("pretrained_cfg", config)
    arguments = config.get("model_args") or {}
    if not isinstance(inner, dict) or not isinstance(arguments, dict):
        raise EncoderError(f"{place} makes no sense: its fields are of other kinds")
    _require_known(config["architecture"], place)
    fields = {one.name for one in dataclasses.fields(PretrainedCfg)}
    settled = {name: value for name, value in inner.items() if name in fields}
    for name in ("num_classes", "license"):
        if name in config:
            settled[name] = config[name]
    kept = {k: v for k, v in arguments.items() if k not in ("num_classes", "in_chans")}
    if "in_chans" in arguments:
        sides = settled.get("input_size") or (3, 224, 224)
        settled["input_size"] = [arguments["in_chans"], *sides[1:]]
    return config["architecture"].partition(".")[0], kept, settled


def _require_known(backbone: str, place: Path) -> None:
    if not timm.is_model(backbone):
        raise EncoderError(
            f"{place} names the network {backbone!r}, which timm {timm.__version__} does not know:"
            " upgrade timm, or export it to ONNX"
        )
