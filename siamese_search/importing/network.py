"""Networks that timm knows, as encoders: by a name, from a hub, or from a folder of files.

They keep their own pooling, and their weights as they are but for the rounding to half precision.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.network import HALF, EmbeddingNetwork, arguments_of, export_onnx
from siamese_search.errors import EncoderError, UsageError
from siamese_search.importing import checking, files, hub, transformers
from siamese_search.importing.imported import Imported
from siamese_search.importing.stated import Stated, from_open_clip, from_preprocessor, from_timm

PARAMETERS = 500_000_000  # at most: an ONNX file holds 2 GB, and the graph is exported in float32
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


def import_network(
    source: str,
    *,
    name: str | None = None,
    weights: Path | None = None,
    checkpoint_folder: Path | None = None,
    asked: Stated = Stated(),  # noqa: B008  it is frozen
    pictures: Sequence[Any] = (),
    tell: Callable[[str], object] = lambda stage: None,
) -> Imported:
    """Make an encoder of a network that timm knows.

    ``source`` is a timm name, ``hf-hub:org/name``, or a folder with ``config.json`` and safetensors.
    Weights are a timm name's published ones, else those of a file or a folder. ``asked`` goes
    before what the files say of size, mean and the like. ``pictures``, paths or what
    ``Encoder.embed`` takes, are what the exported graph is compared with torch on: its origin has
    the least cosine of each runtime. ``tell`` gets what is being done.

    Raises UsageError for what makes no sense; EncoderError where weights cannot be had, do not fit,
    or are pickles, and where a runtime disagrees with torch.
    """
    if weights is not None and checkpoint_folder is not None:
        raise UsageError("--weights and --checkpoint-folder both name weights: give one of them")
    found = _found(source, weights, checkpoint_folder)
    says = asked.over(found.says)
    how = says.preprocessing()
    mean, std = says.scale(how.channels)
    tell("reading the weights")
    tensors, digests = files.read_tensors(found.weights)
    architecture = {
        "backbone": found.backbone,
        "arguments": found.arguments | _sized(found, how.height, how.width),
        "channels": how.channels,
        "mean": mean,
        "std": std,
        "pooling": [{"source": "head"}],
        "dropout": 0.0,
        "projection": None,
    }
    loaded = _loaded(found, architecture, found.convert(tensors))
    del tensors
    network = _network(architecture, loaded, found.backbone)
    _try(network, found.backbone, how.height, how.width)
    tell("embedding pictures with torch")
    pixels = checking.rendered(pictures, how)
    expected = _embedded(loaded, pixels, network)
    del loaded
    tell("exporting")
    with torch.no_grad():
        onnx = export_onnx(network, how.height, how.width)
    made = Imported(
        name=name or found.backbone.split(".")[0],
        architecture=architecture,
        preprocessing=how,
        dimension=network.dimension,
        onnx=onnx,
        weights={
            key: (values.half() if _halves(values) else values).numpy().copy()
            for key, values in network.state_dict().items()
        },
        origin=found.origin | {"files": digests},
    )
    del network
    tell("comparing with torch")
    agreement = checking.require_agreement(made, pixels, expected, [*map(str, pictures)])
    return dataclasses.replace(made, origin=made.origin | {"agreement": agreement})


def _found(source: str, weights: Path | None, checkpoint_folder: Path | None) -> Source:
    """The network that a source names, and its weights."""
    if source.lower().endswith(files.PICKLES):
        files.require_safetensors(Path(source))
    if source.endswith(".safetensors"):
        raise UsageError(
            f"{source} has weights alone: name the network, too, as `siasearch encoder import"
            f" vit_small_patch14_dinov2 --weights {source}`"
        )
    if weights is not None:
        files.require_safetensors(weights)
        if not weights.is_file():
            raise UsageError(f"there is no file {weights}")
    if checkpoint_folder is not None and not checkpoint_folder.is_dir():
        raise UsageError(f"there is no folder {checkpoint_folder}")
    if source.startswith(hub.PREFIX):
        repository = source.removeprefix(hub.PREFIX)
        if not NAMED.fullmatch(repository):
            raise UsageError(f"{source!r} names no repository: write {hub.PREFIX}org/name")
        folder = checkpoint_folder or hub.fetched(repository)
        origin = {"source": source, "url": PAGE + repository.partition("@")[0]}
        return _in_folder(folder, weights, origin)
    if timm.is_model(source):
        return _named(source, weights, checkpoint_folder)
    if Path(source).is_dir():
        return _in_folder(Path(source), weights, {"source": source})
    near = timm.list_models(f"*{source.partition('.')[0]}*")[:3] if NAMED.fullmatch(source) else []
    meant = f"; timm knows {', '.join(near)}" if near else ""
    raise UsageError(
        f"{source!r} is no network that timm knows, and no folder: name one, as"
        f" vit_small_patch14_dinov2.lvd142m or {hub.PREFIX}org/name{meant}"
    )


def _named(source: str, weights: Path | None, folder: Path | None) -> Source:
    """The network of a timm name, with its published weights unless others are named."""
    try:
        cfg = timm.get_pretrained_cfg(source, allow_unregistered=False)
    except (RuntimeError, ValueError) as error:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(source.partition(".")[0] + ".*")[:6])
        raise UsageError(f"timm knows no {source!r}: it has {tags or 'others'}") from error
    settled = {} if cfg is None else cfg.to_dict()
    origin: dict[str, Any] = {"source": source}
    backbone = source.partition(".")[0]
    if folder is None and weights is None:
        repository = settled.get("hf_hub_id")
        if not repository:
            raise EncoderError(
                f"nobody has published weights of {source!r}: name some: --weights"
                " FILE.safetensors, or --checkpoint-folder DIR"
            )
        folder = hub.fetched(repository)
        origin |= {"url": PAGE + repository, "licence": settled.get("license")}
    if folder is not None:
        told = files.licence_beside(folder)
        origin |= {"licence": told} if told else {}
    says = from_timm(settled, f"timm's {source}")
    if folder is not None and _is_timm(config := files.read_json(folder / files.CONFIG)):
        # The files of a folder know better, if they are of the same network.
        other, arguments, told_cfg = _timm_fields(config, folder)
        if other == backbone:
            says = from_timm(told_cfg, str(folder / files.CONFIG)).over(says)
            return Source(
                backbone, settled | told_cfg, arguments, weights and [weights] or
                files.weights_in(folder), says, dict, origin
            )
    return Source(
        backbone=backbone,
        settled=settled,
        arguments={},
        weights=[weights] if weights else files.weights_in(cast(Path, folder)),
        says=says,
        convert=dict,
        origin=origin,
    )


def _in_folder(folder: Path, weights: Path | None, origin: dict[str, Any]) -> Source:
    """The network that the files of a folder describe, in timm's or in transformers' way."""
    place = folder / files.CONFIG
    config = files.read_json(place)
    clip = files.read_json(folder / "open_clip_config.json")
    shown = files.read_json(folder / "preprocessor_config.json")
    beside = from_preprocessor(shown, str(folder / "preprocessor_config.json"))
    beside = beside.over(
        from_open_clip(clip, str(folder / "open_clip_config.json")) if clip else Stated()
    )
    licence = files.licence_beside(folder)
    paths = [weights] if weights else files.weights_in(folder)
    trunk = ((clip.get("model_cfg") or {}).get("vision_cfg") or {}).get("timm_model_name")
    if _is_timm(config):
        backbone, arguments, settled = _timm_fields(config, folder)
        _require_known(backbone, place)
        licence = licence or settled.get("license")
        says = from_timm(settled, str(place)).over(beside)
        convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    elif isinstance(config.get("model_type"), str) and not trunk:
        network = transformers.described(config, place)
        backbone, arguments, settled = network.backbone, network.arguments, network.settled
        says = beside.over(from_timm(settled, str(place)))
        convert = network.converted
    elif isinstance(trunk, str):
        backbone, arguments = trunk, {}
        _require_known(backbone, folder / "open_clip_config.json")
        cfg = timm.get_pretrained_cfg(backbone)
        settled = {} if cfg is None else cfg.to_dict()
        says = beside.over(from_timm(settled, backbone))
        convert = dict
    else:
        raise EncoderError(
            f"{place} names no network (architecture, or model_type): name it yourself, as"
            f" `siasearch encoder import vit_small_patch14_dinov2 --checkpoint-folder {folder}`"
        )
    if licence:
        origin = origin | {"licence": licence}
    return Source(backbone, settled, arguments, paths, says, convert, origin)


def _is_timm(config: dict[str, Any]) -> bool:
    return isinstance(config.get("architecture"), str)


def _timm_fields(
    config: dict[str, Any], folder: Path
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The network's name, its arguments and ``pretrained_cfg`` of a ``config.json`` of timm's."""
    inner = config.get("pretrained_cfg", config)
    arguments = config.get("model_args") or {}
    if not isinstance(inner, dict) or not isinstance(arguments, dict):
        raise EncoderError(f"{folder / files.CONFIG} makes no sense: its fields are of other kinds")
    fields = {one.name for one in dataclasses.fields(PretrainedCfg)}
    settled = {name: value for name, value in inner.items() if name in fields}
    for name in ("num_classes", "license"):
        if name in config:
            settled[name] = config[name]
    arguments = {k: v for k, v in arguments.items() if k not in ("num_classes", "in_chans")}
    return config["architecture"].partition(".")[0], arguments, settled


def _require_known(backbone: str, place: Path) -> None:
    if not timm.is_model(backbone):
        raise EncoderError(
            f"{place} names the network {backbone!r}, which timm {timm.__version__} does not know:"
            " upgrade timm, or export it to ONNX"
        )


def _sized(found: Source, height: int, width: int) -> dict[str, Any]:
    """The size as an argument, for a network that is built for one size."""
    fixed = found.settled.get("fixed_input_size") or "img_size" in found.arguments
    return {"img_size": [height, width]} if fixed else {}


def _loaded(found: Source, architecture: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Timm's network with all of the weights, its classifier as the file has it.

    Timm renames tensors, and resamples position embeddings for another size. Every tensor must
    have its place: a classifier of another size is tried before that is given up.
    """
    failed: list[str] = []
    for classes in _classes(found, tensors):
        cfg = {
            **found.settled,
            "state_dict": tensors,
            "num_classes": classes,
            "label_offset": None,
            "custom_load": False,
        }
        for where in ("url", "file", "source", "hf_hub_id", "hf_hub_filename"):
            cfg.pop(where, None)
        try:
            model = timm.create_model(
                found.backbone,
                pretrained=True,
                pretrained_cfg=cfg,
                num_classes=classes,
                in_chans=architecture["channels"],
                **arguments_of(architecture),
            )
        except (RuntimeError, KeyError, AssertionError) as error:  # what does not fit
            failed.append(_in_short(str(error)))
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise EncoderError(
                f"timm cannot build {found.backbone!r} so: {_in_short(str(error))}"
            ) from error
        else:
            model.pretrained_cfg = model.default_cfg = None  # which hold on to the file's tensors
            return cast(nn.Module, model.eval())
    places = ", ".join(str(path) for path in found.weights[:2])
    raise EncoderError(f"{places} does not fit {found.backbone!r}: {failed[0]}")


def _classes(found: Source, tensors: dict[str, Tensor]) -> list[int]:
    """How many classes the weights may have been trained for, the likeliest first."""
    named = found.settled.get("classifier")
    names = [named] if isinstance(named, str) else [*(named or ())]
    counts = [len(tensors[f"{one}.weight"]) for one in names if f"{one}.weight" in tensors]
    stated = found.settled.get("num_classes")
    counts += [] if counts else [0]
    counts += [stated] if isinstance(stated, int) and stated >= 0 else []
    return list(dict.fromkeys(counts))


def _in_short(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = " ".join(lines[1:] if len(lines) > 1 and "state_dict" in lines[0] else lines)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _network(architecture: dict[str, Any], loaded: nn.Module, backbone: str) -> EmbeddingNetwork:
    """The embedding network with the loaded weights, rounded to half precision where that holds
    them, but for the classifier.
    """
    if sum(one.numel() for one in loaded.parameters()) > PARAMETERS:
        raise EncoderError(
            f"{backbone!r} has more than {PARAMETERS // 1_000_000} million parameters, which an"
            " ONNX file cannot hold: take a smaller one"
        )
    try:
        network = EmbeddingNetwork(architecture).eval()
        state = loaded.state_dict()
        network.backbone.load_state_dict({key: state[key] for key in network.backbone.state_dict()})
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise EncoderError(
            f"{backbone!r} cannot be used without its classifier: {_in_short(str(error))}"
        ) from error
    with torch.no_grad():
        for values in network.state_dict().values():
            if _halves(values):
                values.copy_(values.half().float())
    return network


def _halves(values: Tensor) -> bool:
    """Whether a tensor is kept in half precision."""
    return values.ndim > 1 and values.is_floating_point() and bool((values.abs() <= HALF).all())


def _try(network: EmbeddingNetwork, backbone: str, height: int, width: int) -> None:
    """Raise UsageError for a network that does not embed pictures of a size."""
    channels = network.mean.shape[1]
    try:
        with torch.inference_mode():
            made = network(torch.zeros(1, height, width, channels, dtype=torch.uint8))
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{backbone!r} cannot be used at {width} × {height} pixels: {_in_short(str(error))}"
        ) from error
    if made.shape != (1, network.dimension):
        raise EncoderError(f"{backbone!r} gives {tuple(made.shape)}, which is no embedding")


def _embedded(loaded: nn.Module, pixels: PixelArray, network: EmbeddingNetwork) -> FloatArray:
    """What timm's network itself makes of pixels, in float32: unit length, (n, dimension)."""
    model = cast(Any, loaded)
    rows = []
    with torch.inference_mode():
        for picture in torch.from_numpy(pixels):
            image = (picture[None].permute(0, 3, 1, 2).float() - network.mean) / network.std
            given = model.forward_head(model.forward_features(image), pre_logits=True)
            rows.append(functional.normalize(given.float()))
    return cast(FloatArray, torch.cat(rows).numpy())
