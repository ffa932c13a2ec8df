"""Networks that timm knows, as encoders: by a name, from a hub, or from a folder of files.

They keep their own pooling, and their weights as they are but for the rounding to half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from siamese_search.arrays import FloatArray, PixelArray
from siamese_search.embedding.network import HALF, EmbeddingNetwork, arguments_of, export_onnx
from siamese_search.errors import EncoderError, UsageError
from siamese_search.importing import checking, files
from siamese_search.importing.imported import Imported
from siamese_search.importing.sources import Source, source_of
from siamese_search.importing.stated import Stated

CLASSES = 100_000  # that a description may claim
PARAMETERS = 500_000_000  # at most: an ONNX file holds 2 GB, and the graph is exported in float32


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

    ``source`` is a timm name, ``hf-hub:org/name``, or a folder with ``config.json`` and
    safetensors. Weights are the published ones, else those of a file or a folder. ``asked`` goes
    before what the files say of size, mean and the like. ``pictures``, paths or what
    ``Encoder.embed`` takes, are what the exported graph is compared with torch on: its origin has
    the least cosine of each runtime. ``tell`` gets what is being done.

    Raises UsageError for what makes no sense; EncoderError where weights cannot be had, do not fit,
    or are pickles, and where a runtime disagrees with torch.
    """
    if weights is not None and checkpoint_folder is not None:
        raise UsageError("--weights and --checkpoint-folder both name weights: give one of them")
    found = source_of(source, weights, checkpoint_folder)
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
    return checking.checked(made, pixels, expected, [*map(str, pictures)])


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
    counts += [stated] if isinstance(stated, int) and 0 <= stated <= CLASSES else []
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
    embed = getattr(network.backbone, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
        nearest = " × ".join(
            str(max(1, round(side / one)) * one)
            for side, one in zip((width, height), patch[::-1], strict=True)
        )
        raise UsageError(
            f"{backbone!r} cuts pictures into patches of {patch[1]} × {patch[0]} pixels, which do"
            f" not fill {width} × {height}: take {nearest}"
        )
    try:
        with torch.inference_mode():
            made = network(torch.zeros(1, height, width, channels, dtype=torch.uint8))
    except (
        AssertionError,
        AttributeError,
        IndexError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
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
