"""Steps that see small pictures first, which is faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_metric_learning")

from siamese_search.embedding.network import EmbeddingNetwork  # noqa: E402
from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.training.batches import Batches  # noqa: E402
from siamese_search.training.data import Pictures  # noqa: E402
from siamese_search.training.loop import Trainer  # noqa: E402
from siamese_search.training.pace import Pace  # noqa: E402
from siamese_search.training.resolution import cost, cost_from, require_small, size_at, small  # noqa: E402
from siamese_search.training.retrieval import Retrieval  # noqa: E402
from siamese_search.training.selection import Selection  # noqa: E402
from siamese_search.training.settings import Settings  # noqa: E402
from siamese_search.training.starting import starting_point  # noqa: E402
from siamese_search.words import duration  # noqa: E402

SETTINGS = Settings(start="scratch", steps=10, classes=2, images=2, coarse=0.5)


def network(backbone: str, channels: int = 3) -> EmbeddingNetwork:
    architecture = {
        "backbone": backbone,
        "channels": channels,
        "mean": [127.0] * channels,
        "std": [128.0] * channels,
        "pooling": [{"source": "features"}],
    }
    return EmbeddingNetwork(architecture)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((48, 48), (32, 32)), ((224, 224), (160, 160)), ((32, 32), (32, 32)), ((16, 96), (16, 64))],
)
def test_small_is_two_thirds_in_whole_grains(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert small(size) == expected


def test_the_first_steps_see_small_pictures_and_the_others_the_whole_size() -> None:
    pixels = np.zeros((8, 96, 96, 1), np.uint8)
    batches = Batches(Pictures(pixels, np.arange(8) // 2), SETTINGS, (48, 48))
    sides = [batches.batch(step)[0].shape[2:] for step in range(SETTINGS.steps)]
    assert sides == [(48, 48)] + [(32, 32)] * 4 + [(48, 48)] * 5
    assert size_at(0, replace(SETTINGS, coarse=0.0), (48, 48)) == (48, 48)


def test_a_step_costs_what_its_pixels_do() -> None:
    assert cost(3, SETTINGS, (48, 48)) == pytest.approx((2 / 3) ** 2)
    assert cost(0, SETTINGS, (48, 48)) == cost(7, SETTINGS, (48, 48)) == 1
    assert cost(3, replace(SETTINGS, coarse=0.0), (48, 48)) == 1


@pytest.mark.parametrize("coarse", [0.02, 0.05, 0.08, 0.6])
@pytest.mark.parametrize("first", [0, 3, 355, 359])
def test_the_time_is_foretold_wherever_pictures_get_larger(coarse: float, first: int) -> None:
    settings = replace(SETTINGS, steps=600, coarse=coarse)
    costs = [cost(first + n, settings, (224, 224)) for n in range(600 - first)]
    said: list[str] = []
    now = [0.0]
    whole = cost_from(first, settings, (224, 224))
    assert whole == pytest.approx(sum(costs))
    timer = Pace(len(costs), 64, 0.0, said.append, whole, lambda: now[0], lambda n: costs[n])
    for one in costs:
        now[0] += one
        timer.step()
    assert said[0].startswith(f"about {duration(sum(costs))}: ")
    assert ("slower later" in said[0]) == (costs[2] < 1)


def test_a_network_of_one_size_is_refused() -> None:
    with pytest.raises(UsageError, match="160 x 160 pixels, which --coarse"):
        require_small(network("vit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224))
    require_small(network("siasearch_resnet", 1), torch.zeros(1, 1, 48, 48))
    with pytest.raises(UsageError, match="32 x 32 pixels are too few"):
        require_small(network("siasearch_resnet", 1), torch.zeros(1, 1, 32, 32))


def test_a_run_is_not_given_up_for_what_it_learned_from_small_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SETTINGS, steps=20, epoch_steps=2, patience=3, give_up=0.5).resolved()
    start = starting_point(settings)
    pictures = Pictures(np.zeros((8, 48, 48, 1), np.uint8), np.arange(8) // 2)
    run = Trainer(start.network, settings, pictures, pictures, start.how, "cpu")
    ends: dict[str, list[int]] = {"patience": [], "give up": []}
    for step in range(0, 20, 2):  # no look is as good as the first
        run.step = step
        seen = Retrieval(0.5, np.full(4, 0.1 if step else 0.9))
        monkeypatch.setattr(run, "_retrieval", lambda seen=seen: seen)
        run.validate()
        ends["patience"] += [step] * (run.ended() is not None)
    run.selection.stale = 0
    run.settings = replace(settings, start="general")
    monkeypatch.setattr(Selection, "gains_nothing", True)
    for step in range(20):
        run.step = step
        ends["give up"] += [step] * (run.ended() is not None)
    assert ends == {"patience": [16, 18], "give up": list(range(15, 20))}


def test_it_is_a_share() -> None:
    with pytest.raises(UsageError, match=r"coarse is 1\.5: a share"):
        replace(SETTINGS, coarse=1.5).resolved()
