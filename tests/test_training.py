"""Training: from folders of pictures to an encoder that a gallery is rebuilt under."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("onnxscript")

import huggingface_hub  # noqa: E402
import safetensors.torch  # noqa: E402
import timm  # noqa: E402
from conftest import picture  # noqa: E402
from filelock import FileLock  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.errors import EntryNotFoundError  # noqa: E402

from siamese_search import Encoder, Gallery  # noqa: E402
from siamese_search.decision import reference, trained  # noqa: E402
from siamese_search.decision.evidence import logistic  # noqa: E402
from siamese_search.embedding import backbones  # noqa: E402
from siamese_search.embedding.backbones import SmallResNet  # noqa: E402
from siamese_search.embedding.network import EmbeddingNetwork, export_onnx  # noqa: E402
from siamese_search.embedding.record import verified_weights, write_encoder  # noqa: E402
from siamese_search.errors import (  # noqa: E402
    EncoderError,
    RuntimeUnavailable,
    StorageError,
    TrainingError,
    UsageError,
)
from siamese_search.records import ImageFile, Rejection  # noqa: E402
from siamese_search.training import (  # noqa: E402
    checkpoint,
    hardware,
    loop,
    outcome,
    plots,
    retrieval,
)
from siamese_search.training.data import decode, found_files  # noqa: E402
from siamese_search.training.run import train  # noqa: E402
from siamese_search.training.settings import Settings, parsed  # noqa: E402
from siamese_search.training.starting import starting_point  # noqa: E402
from siamese_search.training.views import lower_layers, training_view  # noqa: E402
from siamese_search.training.words import gained  # noqa: E402

pytestmark = pytest.mark.usefixtures("quickly_exported")

SMALL = Settings(
    start="scratch",
    augmentation="none",
    size=48,
    steps=8,
    epoch_steps=4,
    classes=4,
    images=2,
    dimension=16,
    patience=10,
)


def drawn(folder: Path) -> Path:
    """Twelve classes with four noisy versions each of a mosaic."""
    for number in range(12):
        place = folder / f"class-{number:02}"
        place.mkdir(parents=True)
        for version in range(4):
            noisy = picture(number, noise=20 * (version + 1)).resize((32, 32))
            noisy.save(place / f"{version}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return drawn(tmp_path / "pictures")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are not drawn, which takes longer than they do."""
    monkeypatch.setattr("siamese_search.training.run._draw", lambda *_: None)


class Stop(Exception):
    """Ends a run when an epoch is done, and its checkpoint written."""


def stop(epoch: loop.Epoch) -> None:
    raise Stop(epoch)


@pytest.fixture(scope="module")
def first(common_folder: Path) -> tuple[Path, Path]:
    """Pictures, and a run on them, which are left as they are."""
    place = common_folder / "first"
    with FileLock(common_folder / "first.lock"):
        if not place.exists():
            folder = common_folder / "first.partial"
            train([drawn(folder / "pictures")], folder / "run", SMALL)
            folder.rename(place)
    return place / "pictures", place / "run"


# Runs


@pytest.mark.slow
def test_a_run_leaves_an_encoder_that_a_gallery_is_rebuilt_under(
    folder: Path, tmp_path: Path, toy_folder: Path
) -> None:
    (folder / "class-00" / "broken.png").write_bytes(b"nothing")
    listed = Rejection("list.csv line 3", "no path")  # of a manifest
    epochs: list[loop.Epoch] = []
    report = train([folder, listed], tmp_path / "mine", SMALL, tell=epochs.append)
    assert [epoch.step for epoch in epochs] == [4, 8]
    assert listed in report.rejected
    assert [rejection.path for rejection in report.rejected if rejection != listed] == [
        str(folder / "class-00" / "broken.png")
    ]
    assert report.held_out == "classes"
    lines = (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    for plot in ("curves", "scores", "map"):
        assert (tmp_path / "mine" / f"{plot}.png").stat().st_size > 5000
    encoder = Encoder.open(tmp_path / "mine", "cpu")
    assert encoder.dimension == 16
    assert encoder.record.training["settings"]["steps"] == 8
    with Gallery.open(tmp_path / "gallery", toy_folder) as gallery:
        gallery.enroll([folder])
        assert gallery.rebuild(tmp_path / "mine").switched
        (answer,) = gallery.identify([folder / "class-03" / "0.png"])
        assert answer.matches[0].identity == "class-03"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_training_goes_on_bit_for_bit_after_a_stop(folder: Path, tmp_path: Path) -> None:
    settings = replace(
        SMALL, loss="proxy-anchor", augmentation="photo", dropout=0.2, hard_every=1, coarse=0.7
    )
    train([folder], tmp_path / "whole", settings)
    with pytest.raises(Stop):
        train([folder], tmp_path / "parts", settings, tell=stop)
    train([folder], tmp_path / "parts", settings, resume=True)
    whole, parts = (
        checkpoint.read_checkpoint(tmp_path / run / checkpoint.NAME) for run in ("whole", "parts")
    )
    assert whole[1] == parts[1]
    assert whole[0].keys() == parts[0].keys()
    assert all(torch.equal(tensor, parts[0][name]) for name, tensor in whole[0].items())
    fingerprints = {Encoder.open(tmp_path / run).fingerprint for run in ("whole", "parts")}
    assert len(fingerprints) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    """Kill -9 at any moment loses the epoch at most: a resumed run ends with the same weights."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, time, traceback\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from siamese_search.training.run import train\n"
        "from siamese_search.training.settings import Settings\n"
        "settings = Settings(start='scratch', augmentation='glyph', size=16, steps=12,"
        " epoch_steps=2, classes=4, images=2, dimension=16, patience=10)\n"
        "def stop(epoch):\n"  # the last checkpoint is written by then
        "    if epoch.step == settings.steps:\n"
        "        os._exit(0)\n"
        "def run(name, lines=None):\n"  # a process of its own, killed once so many are written
        "    out = Path(sys.argv[2]) / name\n"
        "    process = os.fork()\n"
        "    if not process:\n"
        "        torch.set_num_threads(1)\n"
        "        resume = (out / 'checkpoint.safetensors').exists()\n"
        "        try:\n"
        "            train([sys.argv[1]], out, settings, resume=resume, tell=stop)\n"
        "        except Exception:\n"
        "            traceback.print_exc()\n"
        "        os._exit(1)\n"
        "    metrics = out / 'metrics.jsonl'\n"
        "    while os.waitpid(process, os.WNOHANG) == (0, 0):\n"
        "        if lines and metrics.exists() and metrics.read_bytes().count(b'\\n') >= lines:\n"
        "            os.kill(process, signal.SIGKILL)\n"
        "        time.sleep(0.002)\n"
        "run('whole')\n"
        "for lines in (1, 3, 4, None):\n"
        "    run('killed', lines)\n"
    )
    subprocess.run([sys.executable, str(script), str(folder), str(tmp_path)], check=True)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    whole, killed = (
        checkpoint.read_checkpoint(tmp_path / run / checkpoint.NAME) for run in ("whole", "killed")
    )
    assert whole[1] == killed[1]
    assert whole[0].keys() == killed[0].keys()
    assert all(torch.equal(tensor, killed[0][name]) for name, tensor in whole[0].items())
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10, 12]


@pytest.mark.slow
def test_two_processes_train_as_one(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation and batch statistics, halves of a batch give the whole's gradients."""
    folder, start = first
    settings: dict[str, Any] = {
        **asdict(replace(SMALL, start=str(start), steps=3, epoch_steps=3)),
        "rate": 1e-3,
        "freeze_norm": True,
        "weight_decay": 0.0,
        "average": 0.0,
    }
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "from siamese_search import Encoder\n"
        "from siamese_search.training.run import train\n"
        "from siamese_search.training.settings import Settings\n"
        "from siamese_search.training import hardware, run\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "run._draw = lambda *_: None\n"
        f"run.outcome.export = lambda *_: Encoder.open({str(start)!r})\n"  # not compared
        "hardware.half_precision = lambda device: False\n"
        "other = os.fork()\n"  # what torchrun sets, without its third process and imports
        "os.environ['RANK'] = os.environ['LOCAL_RANK'] = str(int(other == 0))\n"
        f"train([{str(folder)!r}], sys.argv[1], Settings(**json.loads({json.dumps(settings)!r})))\n"
        "if other:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))\n"
    )
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two")],
        env=os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(hardware, "half_precision", lambda device: False)
    with pytest.raises(Stop):
        train([folder], tmp_path / "one", Settings(**settings), tell=stop)
    one, two = (
        checkpoint.read_checkpoint(tmp_path / run / checkpoint.NAME)[0] for run in ("one", "two")
    )
    for name, tensor in one.items():
        if name.startswith("network.") and tensor.is_floating_point():
            assert torch.allclose(tensor, two[name], atol=2e-4), name


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_training_on_from_an_encoder_keeps_its_preprocessing(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, start = first
    settings = replace(SMALL, start=str(start), dimension=None, steps=4, freeze=2)
    report = train([folder], tmp_path / "second", settings)
    assert report.dimension == 16
    before, after = (Encoder.open(name).record for name in (start, tmp_path / "second"))
    assert before.preprocessing == after.preprocessing
    assert before.architecture == after.architecture


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_training_on_from_an_encoder_with_places_makes_them_anew(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, run = first
    plain = Encoder.open(run).record
    places = {"source": "features", "grid": 3, "dimension": 8}
    architecture = {**plain.architecture, "places": places}
    untrained = outcome.final(EmbeddingNetwork(architecture))
    write_encoder(
        tmp_path / "start",
        name="start",
        architecture=architecture,
        preprocessing=plain.preprocessing,
        dimension=plain.dimension,
        onnx=export_onnx(untrained, plain.preprocessing.height, plain.preprocessing.width),
        weights={name: tensor.numpy() for name, tensor in untrained.state_dict().items()},
        threshold=plain.threshold,
        calibration=plain.calibration,
        training={},
    )
    start = Encoder.open(tmp_path / "start", "cpu")
    settings = replace(SMALL, start=str(start.folder), dimension=None, steps=4, freeze=0)
    report = train([folder], tmp_path / "mine", settings)
    made = Encoder.open(tmp_path / "mine", "cpu")
    assert made.gives_places
    new, old = (verified_weights(one.folder, one.record)["places.weight"] for one in (made, start))
    assert np.array_equal(new, old) == (report.kept == 0)
    with Gallery.open(tmp_path / "gallery", made) as gallery:
        gallery.enroll([folder])
        assert gallery.info().places == len(gallery) == 48


def test_a_shipped_encoder_is_a_start_with_its_places() -> None:
    start = starting_point(replace(SMALL, start="general-2", dimension=None, size=64))
    shipped = Encoder.open("general-2", "cpu")
    weights = verified_weights(shipped.folder, shipped.record)
    assert np.array_equal(start.network.places.weight.detach().numpy(), weights["places.weight"])
    assert start.how == replace(shipped.record.preprocessing, height=64, width=64)


def test_frozen_layers_keep_their_weights_and_the_others_do_not(folder: Path) -> None:
    settings = replace(SMALL, steps=2, epoch_steps=2).resolved()
    start = starting_point(settings)
    network, how = start.network, start.how
    frozen = replace(settings, frozen=0.5)
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training, _ = decode(
        [ImageFile(str(path), path.parent.name) for path in sorted(folder.glob("*/*.png"))],
        {f"class-{n:02}": n for n in range(12)},
        how,
        1 << 20,
    )
    trainer = loop.Trainer(network, frozen, training, None, how, "cpu")
    for _ in trainer.train():
        pass
    moved = {
        name.removeprefix("backbone.")[:8]
        for name, tensor in network.state_dict().items()
        if not torch.equal(tensor, first[name])
    }
    assert moved == {"stages.1", "stages.2", "projecti"}


def test_folding_frozen_layers_changes_no_embedding() -> None:
    network = starting_point(SMALL.resolved()).network
    for module in network.modules():  # statistics as training would leave them
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    for parameter in lower_layers(network.backbone, 0.5):
        parameter.requires_grad_(False)
    images = 255 * torch.rand(3, 1, 16, 16)
    view = training_view(network, images)
    assert isinstance(view.backbone.bn, torch.nn.Identity)
    assert isinstance(view.backbone.stages[1].bn1, torch.nn.BatchNorm2d)
    assert view.projection.weight is network.projection.weight
    with torch.inference_mode():
        assert torch.allclose(view.eval().embed(images), network.eval().embed(images), atol=1e-4)


def test_normalisation_with_still_statistics_is_part_of_its_convolution_and_learns_the_same() -> (
    None
):
    network = starting_point(SMALL.resolved()).network
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            assert tensor is not None
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    images = 255 * torch.rand(6, 1, 16, 16)
    view = training_view(network, images, still=True)
    assert isinstance(view.backbone.stages[1].bn1, torch.nn.Identity)
    wanted = torch.randn(6, 16)
    gradients = []
    for one in (network, view):
        network.zero_grad()
        (one.eval().embed(images) * wanted).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(network.parameters()))
    for plain, folded in zip(*gradients, strict=True):
        assert torch.allclose(plain, folded, rtol=1e-3, atol=1e-4)
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    view.train().embed(images)
    assert all(torch.equal(a, n.running_mean) for a, n in zip(before, norms, strict=True))


def test_a_network_whose_layers_run_in_another_order_than_listed_is_not_folded() -> None:
    class NormFirst(SmallResNet):
        def forward_features(self, images: Any) -> Any:
            return self.stages(self.conv(self.bn(images.expand(-1, 32, -1, -1))[:, :1]))

    network = starting_point(SMALL.resolved()).network
    backbone = network.backbone
    backbone.__class__ = NormFirst
    torch.nn.init.uniform_(backbone.bn.running_mean, 1, 2)
    for parameter in lower_layers(backbone, 0.2):
        parameter.requires_grad_(False)
    view = training_view(network, 255 * torch.rand(3, 1, 16, 16))
    assert isinstance(view.backbone.bn, torch.nn.BatchNorm2d)
    assert view.backbone.bn.weight is backbone.bn.weight


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_what_rounding_changes_is_a_warning_and_the_encoder_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcome, "ROUNDED_AGREEMENT", 2.0)
    train([folder], tmp_path / "out", SMALL)
    assert "train for longer" in caplog.text
    assert Encoder.open(tmp_path / "out").record.training["least cosine to float32"] > 0
    monkeypatch.setattr(outcome, "AGREEMENT", 2.0)
    with pytest.raises(TrainingError, match="disagrees with torch"):
        train([folder], tmp_path / "wrong", SMALL)
    assert not (tmp_path / "wrong" / "encoder.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_folder_without_classes_is_trained_by_two_views_of_each(
    folder: Path, tmp_path: Path
) -> None:
    settings = replace(SMALL, loss="self-supervised", augmentation="photo", steps=4)
    assert train([folder], tmp_path / "out", settings).steps == 4


def test_a_loss_that_is_no_number_stops_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a learning rate below"):
        train([folder], tmp_path / "out", replace(SMALL, rate=1e30, clip=1e30))


@pytest.mark.slow
def test_a_run_does_not_train_on_what_it_draws_and_goes_on_with_the_same_pictures_only(
    folder: Path,
) -> None:
    first = train([folder], folder / "out", SMALL)
    assert list((folder / "out").glob("*.png"))
    report = train([folder], folder / "out", SMALL, resume=True)
    assert report.pictures == first.pictures
    picture(77).save(folder / "class-00" / "more.png")
    with pytest.raises(TrainingError, match="other pictures"):
        train([folder], folder / "out", SMALL, resume=True)


@pytest.mark.parametrize("out", [".", "pictures", "pictures/class-00"])
def test_a_run_is_not_written_to_a_folder_that_contains_its_pictures(
    folder: Path, tmp_path: Path, out: str
) -> None:
    place = folder / "class-00"
    files = [ImageFile(str(one), "one") for one in place.iterdir()]
    for images in ([folder / "class-01", place], files):
        with pytest.raises(UsageError, match="contains the pictures: --out takes"):
            found_files(images, tmp_path / out)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="pickled weights"):
        train([folder], tmp_path / "out", replace(SMALL, start=str(tmp_path / "weights.pth")))


def test_a_device_that_is_not_there_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    for device, says in (("gpu", "unknown device"), ("mps", "sees no mps")):
        with pytest.raises(RuntimeUnavailable, match=says):
            train([folder], tmp_path / "out", SMALL, device=device)


def test_out_of_memory_names_what_to_try() -> None:
    for classes, says in ((16, "--classes 8"), (2, "a smaller --size")):
        with (
            pytest.raises(TrainingError, match=says),
            hardware.out_of_memory_explained(replace(SMALL, classes=classes)),
        ):
            raise RuntimeError("MPS backend out of memory")
    with pytest.raises(RuntimeError, match="shape"), hardware.out_of_memory_explained(SMALL):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.slow
def test_transformers_give_feature_maps(backbone: str) -> None:
    architecture = {
        "backbone": backbone,
        "mean": [127.0] * 3,
        "std": [128.0] * 3,
        "pooling": [{"source": "features"}],
    }
    network = EmbeddingNetwork(architecture).eval()
    with torch.inference_mode():
        made = network(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert made.shape == (2, network.dimension)
    assert torch.allclose(made.norm(dim=1), torch.ones(2), atol=1e-4)


def test_settings_are_parsed_by_their_types() -> None:
    given = ["dropout=1", "freeze=50", "loss=triplet", "freeze_norm=true", "rate=null"]
    assert parsed(given) == {
        "dropout": 1.0,
        "freeze": 50,
        "loss": "triplet",
        "freeze_norm": True,
        "rate": None,
    }
    for wrong in ("dropout=high", "steps=1.5", "depth=3", "freeze_norm=1"):
        with pytest.raises(UsageError):
            parsed([wrong])


@pytest.mark.slow
def test_an_earlier_run_is_not_overwritten(first: tuple[Path, Path], tmp_path: Path) -> None:
    folder, run = first
    shutil.copytree(run, tmp_path / "out")
    with pytest.raises(TrainingError, match="--resume"):
        train([folder], tmp_path / "out", SMALL)
    with pytest.raises(TrainingError, match="other settings: steps was 8, not 9"):
        train([folder], tmp_path / "out", replace(SMALL, steps=9), resume=True)
    with pytest.raises(TrainingError, match="to resume from"):
        train([folder], tmp_path / "other", SMALL, resume=True)
    (tmp_path / "out" / checkpoint.NAME).write_bytes(b"\x80\x04pickle")
    with pytest.raises(TrainingError, match="no checkpoint"):
        train([folder], tmp_path / "out", SMALL, resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"loss": "best"}, UsageError, "unknown loss"),
        ({"augmentation": "wild"}, UsageError, "unknown augmentation"),
        ({"start": "nothing_like_it"}, UsageError, "unknown starting point"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"images": 1}, UsageError, "at least 2"),
        ({"seed": -1}, UsageError, "at least 0"),
        ({"crop": 0.5}, UsageError, "does not crop"),
        ({"start": "glyph", "crop": 0.5}, UsageError, "does not crop"),
        ({"seed": 1 << 63}, UsageError, "at most"),
        ({"size": 0}, UsageError, "at least 16"),
        ({"dimension": 0}, UsageError, "at least 2"),
        ({"hard_every": -1}, UsageError, "at least 0"),
        ({"freeze": -5}, UsageError, "at least 0"),
        ({"rate": float("nan")}, UsageError, "rate is nan: a number, from 0"),
        ({"rate": float("inf")}, UsageError, "a number, from 0"),
        ({"weight_decay": -1}, UsageError, "a number, from 0"),
        ({"clip": 0}, UsageError, "a number, above 0"),
        ({"average": 5}, UsageError, "a share, from 0 to 1"),
        ({"warm_up": -1}, UsageError, "a share, from 0"),
        ({"dropout": 1}, UsageError, "a share, from 0 to below 1"),
        ({"frozen": 2.0}, UsageError, "a share"),
        ({"crop": 0.0}, UsageError, "a share"),
        ({"holdout": 1.0}, UsageError, "holdout"),
    ],
)
def test_what_makes_no_sense_is_a_clear_error(
    folder: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        train([folder], tmp_path / "out", replace(SMALL, **changes))  # type: ignore[arg-type]


def test_a_hub_that_does_not_answer_is_soon_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "PATIENCE", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        port = silent.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        with pytest.raises(EncoderError, match=r"does not answer.*without a network"):
            backbones.imagenet_weights("resnet18")
    assert time.monotonic() - begun < 5


def test_a_hub_is_not_asked_for_what_its_cache_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model("test_vit")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda place, file: str(tmp_path / file)
    )
    monkeypatch.setattr(backbones, "require_hub", lambda: pytest.fail("asked"))
    found = backbones.imagenet_weights("test_vit")
    assert torch.equal(found["cls_token"], network.state_dict()["cls_token"])
    assert not any(name.startswith("head") for name in found)


def test_pickles_of_a_hub_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(place: str, file: str, **_: object) -> str:
        asked.append(file)
        raise EntryNotFoundError(f"{place} has no {file}")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(backbones, "require_hub", lambda: None)
    with pytest.raises(EncoderError, match="nobody has published any as safetensors"):
        backbones.imagenet_weights("test_vit")
    assert all(file.endswith(".safetensors") for file in asked)


@pytest.mark.slow
def test_a_picture_changed_under_its_name_is_noticed_on_resuming(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train([folder], tmp_path / "out", SMALL, tell=stop)
    changed = folder / "class-03" / "2.png"
    picture(99).resize((32, 32)).save(changed)
    with pytest.raises(TrainingError, match=rf"other pictures of the same names \({changed}\)"):
        train([folder], tmp_path / "out", SMALL, resume=True)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_torch_draws_as_if_nothing_had_been_trained(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train([folder], tmp_path / "out", SMALL)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_gains_nothing_leaves_the_start_and_its_threshold(
    first: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quickly_exported: Any,
) -> None:
    monkeypatch.setattr(torch.onnx, "export", quickly_exported)  # a graph is in the fingerprint
    folder, start = first
    still = replace(SMALL, start=str(start), dimension=None, steps=4, rate=0.0)
    report = train([folder], tmp_path / "second", still)
    before, after = (Encoder.open(name) for name in (start, tmp_path / "second"))
    assert (report.kept, report.gained) == (0, 0.0)
    assert after.fingerprint == before.fingerprint
    assert after.threshold == before.threshold
    assert after.record.calibration == before.record.calibration
    assert "nothing was gained" in " ".join(gained(report))


# What a record says that rests on little


def gallery_of(classes: int, spread: float, seed: int) -> tuple[Any, Any]:
    """Ten vectors of each class about a centre of its own; classes resemble each other."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, 1, 16)) * 0.6 + np.ones(16) * 0.6
    made = (centres + spread * random.normal(size=(classes, 10, 16))).reshape(-1, 16)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32), np.repeat(np.arange(classes), 10)


@pytest.mark.parametrize("held", [2, 4, 8, 16])
def test_a_trained_encoder_names_hardly_more_strangers_than_its_start(held: int) -> None:
    passed = []
    for seed in range(6):
        vectors, labels = gallery_of(16 + held + 40, 0.3, seed)
        stretched = vectors - 0.2  # as training spreads what was alike
        stretched /= np.linalg.norm(stretched, axis=1, keepdims=True)
        in_gallery, out = labels < 16, (labels >= 16) & (labels < 16 + held)
        others = labels >= 16 + held
        strange = [
            trained.strangers(one[others], one[in_gallery], labels[in_gallery])
            for one in (vectors, stretched)
        ]
        least = float(np.quantile(strange[0], 0.95))
        known = trained.Known(
            least,
            {"slope": 10.0, "offset": -10 * least},
            trained.View(vectors[out], vectors[in_gallery]),
        )
        threshold, fields = trained.trained_record(
            trained.View(stretched[out], stretched[in_gallery]),
            labels[out],
            labels[in_gallery],
            known,
            True,
        )
        passed.append(float((strange[1] >= threshold).mean()))
        assert fields["classes"] == held
        assert f"{10 * held} held-out pictures of {held} classes" in fields["data"]
        assert fields["slope"] <= 10 * 1.5
        assert -fields["offset"] / fields["slope"] == pytest.approx(threshold, abs=1e-4)
    assert np.mean(passed) <= 0.06  # where 5 % passed before


@pytest.mark.parametrize("unseen", [True, False])
def test_pictures_that_tell_nothing_leave_the_record_of_the_start(unseen: bool) -> None:
    vectors, _ = gallery_of(12, 0.3, 0)
    alone, seen = np.arange(12), np.repeat(np.arange(4), 2)  # no two pictures are of one class
    view = trained.View(vectors[::10], vectors[:8])
    threshold, fields = trained.trained_record(view, alone, seen, None, unseen, "pictures")
    assert (threshold, fields["fitted"]) == (1, False)
    assert fields["data"] == "12 pictures of 12 classes do not tell right from wrong"
    known = trained.Known(0.8, {"slope": 10.0, "offset": -8.0, "data": "many others"}, view)
    threshold, fields = trained.trained_record(view, alone, seen, known, unseen)
    assert 0.8 <= threshold <= 0.9 if unseen else threshold == 0.8
    assert fields["slope"] == 10
    assert "since 12 held-out pictures of 12 classes do not tell right" in fields["data"]


def test_strangers_score_as_the_slow_way_says() -> None:
    vectors, labels = gallery_of(5, 0.3, 0)
    probes, items, classes = vectors[labels == 4], vectors[labels < 4], labels[labels < 4]
    slow = []
    for probe in probes:
        scores = []
        for name in range(4):
            own = items[classes == name]
            mean = own.mean(axis=0)
            mean /= np.linalg.norm(mean)
            scores.append((max(float(one @ probe) for one in own) + float(mean @ probe)) / 2)
        slow.append(max(scores))
    assert trained.strangers(probes, items, classes) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("classes", [10, 20, 50])
def test_the_tail_of_few_classes_is_at_least_that_of_many(classes: int) -> None:
    vectors, labels = gallery_of(150, 0.3, 7)
    own = labels < classes
    few = reference.record(vectors[own], labels[own])[1]["strangers"]["tail"]
    many = reference.record(vectors, labels)[1]["strangers"]["tail"]
    assert few["0.001"] >= many["0.001"] - 0.1


def test_a_gumbel_distribution_exceeds_what_draws_from_it_do() -> None:
    drawn = np.random.default_rng(0).gumbel(size=1_000_000)
    drawn = (drawn - drawn.mean()) / drawn.std()
    for rate in (0.1, 0.01, 0.001):
        assert reference.gumbel(rate) == pytest.approx(np.quantile(drawn, 1 - rate), abs=0.05)


def test_a_place_that_cannot_be_written_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        train([folder], tmp_path / "file" / "out", SMALL)


def test_the_threshold_lies_where_right_and_wrong_are_even() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1, 1, 20_000)
    right = random.random(20_000) < 1 / (1 + np.exp(-(8 * scores - 4)))
    slope, offset = logistic(scores, right)
    assert -offset / slope == pytest.approx(0.5, abs=0.02)
    assert logistic([0.1, 0.2, 0.8, 0.9], [False, False, True, True])[0] > 0


def test_scores_of_pairs_agree_with_counting() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(40) % 8
    pairs = plots.pair_scores(vectors, labels)
    genuine: list[float] = []
    impostor: list[float] = []
    for a in range(40):
        for b in range(a):
            (genuine if labels[a] == labels[b] else impostor).append(float(vectors[a] @ vectors[b]))
    assert sorted(pairs.genuine) == pytest.approx(sorted(genuine), abs=1e-6)
    assert sorted(pairs.impostor) == pytest.approx(sorted(impostor), abs=1e-6)


def test_the_curves_of_a_run_mark_what_was_kept() -> None:
    epochs = [
        {"step": 10 * n, "loss": 1 / n, "recall": 0.1 * n, "precision": 0.05 * n}
        for n in range(1, 6)
    ]
    for kept, said in (
        (plots.Kept(30), "kept: step 30"),
        (plots.Kept(30, 0.75), "kept: 75% of step 30, 25% of the start"),
        (plots.Kept(0), "kept: the start, over which nothing was gained"),
    ):
        figure = plots.curves(epochs, 0.05, kept)
        for axes in figure.axes:
            assert set(axes.lines[-1].get_xdata()) == {kept.step}  # type: ignore[arg-type]
        (legend,) = figure.legends
        assert said in [text.get_text() for text in legend.get_texts()]
    assert len(figure.axes) == 2
    assert len(plots.curves(epochs, None, plots.Kept(50)).axes) == 1  # nothing was held out


def test_plots_of_a_run_are_whole_files_or_an_error(tmp_path: Path) -> None:
    vectors = np.eye(6, dtype=np.float32)
    epochs = [{"step": 1, "loss": 1.0, "recall": 0.5, "precision": 0.5}]
    labels = np.arange(6) // 2
    drawn = plots.draw(tmp_path, epochs, None, vectors, labels, 0.5, plots.Kept(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.png",
        "map.png",
        "scores.png",
    ]
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in drawn)
    (tmp_path / "curves.png").unlink()
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(StorageError, match=r"curves\.png is a folder"):
        plots.draw(tmp_path, epochs, None, vectors, labels, 0.5, plots.Kept(1))


def test_plots_say_of_what_they_are() -> None:
    vectors, labels = np.eye(6, dtype=np.float32), np.arange(6) // 2
    pairs = plots.pair_scores(vectors, labels)
    titles = [
        plots.scores(pairs, 0.5, "training pictures"),
        plots.class_map(vectors, labels, "training pictures", False),
        plots.class_map(vectors, labels, "held-out pictures", True),
    ]
    assert [figure.axes[0].get_title() for figure in titles] == [
        "pairs of training pictures",
        "training pictures of 3 classes (t-SNE)",
        "3 classes that training has not seen (t-SNE)",
    ]


def test_retrieval_leaves_each_picture_out_of_its_own_search() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 3]]
    found = retrieval.retrieval(vectors, np.array([0, 0, 1, 1, 2, 3]))
    assert found.recall == pytest.approx(4 / 6)
    assert found.precisions.tolist() == [1, 1]  # classes of one picture have nothing to find


def test_retrieval_is_that_of_the_slow_way() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(30, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = random.integers(0, 4, 30)
    slow: list[list[float]] = [[] for _ in range(4)]
    for probe in range(30):
        others = sorted(set(range(30)) - {probe}, key=lambda one: -vectors[one] @ vectors[probe])
        hits = [labels[one] == labels[probe] for one in others]
        wanted = sum(hits)
        slow[labels[probe]].append(
            sum(sum(hits[: rank + 1]) / (rank + 1) for rank in range(wanted) if hits[rank]) / wanted
        )
    found = retrieval.retrieval(vectors, labels)
    assert found.precisions == pytest.approx([np.mean(one) for one in slow], abs=1e-6)


def test_what_differs_by_chance_alone_is_as_good() -> None:
    best = retrieval.Retrieval(1.0, np.array([0.9, 0.8, 0.7], np.float32))
    noisy = retrieval.Retrieval(1.0, np.array([0.95, 0.6, 0.75], np.float32))
    lower = retrieval.Retrieval(1.0, np.array([0.88, 0.78, 0.68], np.float32))
    assert noisy.as_good_as(best)
    assert best.as_good_as(lower)
    assert not lower.as_good_as(best)


@pytest.mark.usefixtures("folder")
def test_the_command_trains_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from siamese_search.cli.app import main

    monkeypatch.chdir(tmp_path)
    arguments = "train pictures --out mine --from scratch --size 48 --steps 2 --classes 4 --json"
    monkeypatch.setattr("sys.argv", ["siasearch", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capfd.readouterr()
    assert stop.value.code == 0, output.err
    assert json.loads(output.out)["steps"] == 2
