"""What a network gives beside its embedding, and what an encoder's folder has beside its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_toy_encoder

from siamese_search.decision.learning import Prior
from siamese_search.embedding.encoder import Encoder
from siamese_search.embedding.onnx_runtime import ONNXRuntime
from siamese_search.embedding.record import read_record
from siamese_search.errors import EncoderError
from siamese_search.pictures.preprocessing import Preprocessing

torch = pytest.importorskip("torch", reason="needs siasearch[train]")
pytest.importorskip("timm", reason="needs siasearch[train]")

from siamese_search.embedding.network import (  # noqa: E402
    DeviationPool,
    EmbeddingNetwork,
    export_onnx,
)

ARCHITECTURE = {
    "backbone": "test_efficientnet",
    "channels": 3,
    "mean": [127.0] * 3,
    "std": [128.0] * 3,
    "pooling": [
        {"source": 4, "power": 1.0, "spread": 1.0, "weight": 1.0},
        {"source": 3, "deviation": True, "weight": 0.5},
    ],
    "projection": 32,
    "centred": True,
    "places": {"source": 3, "grid": 3, "dimension": 8},
}


def network() -> EmbeddingNetwork:
    torch.manual_seed(0)
    made = EmbeddingNetwork(ARCHITECTURE).eval()
    projection: Any = made.projection
    with torch.no_grad():
        projection.bias.fill_(0.02)
    return made


def prior(width: int = 49) -> Prior:
    chance = np.random.default_rng(0)
    mean, within = chance.normal(0, 1, width), chance.normal(0, 1, (width, width))
    return Prior(mean.astype(np.float32), within.astype(np.float32))


def test_deviations_are_those_of_each_channel() -> None:
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    deviations = DeviationPool()(maps)
    for picture in range(2):
        for channel in range(3):
            expected = np.std(maps[picture, channel].numpy().ravel())
            assert deviations[picture, channel] == pytest.approx(expected, abs=1e-6)


def test_places_are_projected_means_of_cells_row_by_row() -> None:
    made = network()
    pixels = torch.randint(0, 255, (1, 96, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        embedding, places = made.describe(pixels)
        images = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        backbone: Any = made.backbone
        maps = backbone.forward_intermediates(images, indices=[3], intermediates_only=True)[0]
    assert maps.shape[2:] == (6, 6)
    for row in range(3):
        for column in range(3):
            cell = maps[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(1, 2))
            projected = made.places.weight[:, :, 0, 0] @ cell + made.places.bias
            expected = (projected / projected.norm()).detach().numpy()
            np.testing.assert_allclose(places[0, 3 * row + column], expected, atol=1e-5)
    np.testing.assert_allclose(embedding, made(pixels).detach(), atol=1e-6)


def test_the_exported_graph_gives_both(tmp_path: Path) -> None:
    made = network()
    folder = write_toy_encoder(
        tmp_path / "made",
        onnx=export_onnx(made, 96, 96),
        preprocessing=Preprocessing(96, 96),
        dimension=32,
    )
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), np.uint8)
    embeddings, found = ONNXRuntime(folder, read_record(folder)).describe(pixels)
    with torch.inference_mode():
        embedding, places = made.describe(torch.from_numpy(pixels))
    assert found is not None
    assert found.shape == (3, 9, 8)
    # Kernels are stored in half precision.
    assert (embeddings * embedding.numpy()).sum(axis=1).min() > 0.999
    assert (found * places.numpy()).sum(axis=2).min() > 0.999


def test_an_encoder_gives_the_prior_that_was_written(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy", prior=prior())
    read = Encoder.open(folder).prior
    assert read is not None
    np.testing.assert_array_equal(read.mean, prior().mean)
    np.testing.assert_array_equal(read.within, prior().within)
    Encoder.open(folder).verify_files()


def test_an_encoder_without_a_prior_says_so(tmp_path: Path) -> None:
    assert Encoder.open(write_toy_encoder(tmp_path / "toy")).prior is None


def test_a_prior_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    plain = Encoder.open(write_toy_encoder(tmp_path / "plain"))
    other = Encoder.open(write_toy_encoder(tmp_path / "other", prior=prior()))
    assert plain.fingerprint == other.fingerprint


def test_a_prior_that_is_damaged_or_missing_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_toy_encoder(tmp_path / "toy", prior=prior())
    content = bytearray((folder / "metric.npy").read_bytes())
    content[-1] ^= 1
    (folder / "metric.npy").write_bytes(content)
    with pytest.raises(EncoderError, match=r"metric\.npy is damaged"):
        _ = Encoder.open(folder).prior
    (folder / "metric.npy").unlink()
    with pytest.raises(EncoderError, match=r"metric\.npy"):
        _ = Encoder.open(folder).prior
    narrow = write_toy_encoder(tmp_path / "narrow", prior=prior(48))
    with pytest.raises(EncoderError, match="does not fit"):
        _ = Encoder.open(narrow).prior


def test_a_run_starts_from_an_encoder_that_centres_with_another_dimension(tmp_path: Path) -> None:
    from siamese_search.embedding.record import write_encoder
    from siamese_search.training.settings import Settings
    from siamese_search.training.starting import starting_point

    made = network()
    weights = {name: values.numpy() for name, values in made.state_dict().items()}
    toy = Encoder.open(write_toy_encoder(tmp_path / "toy")).record
    write_encoder(
        tmp_path / "start",
        name="start",
        architecture=ARCHITECTURE,
        preprocessing=toy.preprocessing,
        dimension=32,
        onnx=b"",
        weights=weights,
        threshold=0.5,
        calibration=toy.calibration,
        training={},
    )
    same = starting_point(Settings(start=str(tmp_path / "start"), dimension=32))
    fresh = starting_point(Settings(start=str(tmp_path / "start"), dimension=16))
    kept: Any = same.network.projection
    new: Any = fresh.network.projection
    assert torch.equal(kept.bias, torch.full((32,), 0.02))
    assert new.weight.shape == (16, made.projection.weight.shape[1])  # type: ignore[index]
    assert not new.bias.any()


def test_fitted_places_vary_alike_in_every_direction() -> None:
    made = network()
    batches = torch.randint(0, 255, (2, 8, 96, 96, 3), dtype=torch.uint8)
    made.fit_places(batches)
    with torch.inference_mode():
        maps = made.maps(batches[0])[3]
        cells = made.places(made.cells(maps)).flatten(2).transpose(1, 2).flatten(0, 1)
    assert np.abs(cells.mean(dim=0).numpy()).max() < 0.5
    spread = np.linalg.eigvalsh(np.cov(cells.numpy(), rowvar=False))
    assert 0 < spread.min() < spread.max() < 2
