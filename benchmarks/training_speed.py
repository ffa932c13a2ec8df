"""How fast does training run, against the loop that anybody would write first?

    python benchmarks/training_speed.py [--steps 6] [--repeats 5]

Both train all of EfficientNet-Lite0 with ImageNet weights, its batch normalisation's statistics
kept, on the 2,640 Grocery training photos: 16 classes x 4 photos of 224 pixels a step,
multi-similarity loss, AdamW. The plain loop has a
DataLoader with 0 or 2 workers, torchvision's transforms of the same kind as ``--augment photo``
and fp32. Ours decodes each photo once; its rate is given in a run's course, and for a whole run
of 300 steps that begins with decoding. The overhead is what a step takes beyond forward, loss and
backward of a batch that lies ready, in the same precision. In turn, each in this process, after a
round that warms everything up; medians.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from common import (
    RESULTS,
    Bars,
    grocery_split,
    interleaved,
    lengths,
    machine,
    median_ratio,
    medians,
    parser,
    seconds,
    table,
)
from PIL import Image
from pytorch_metric_learning.losses import MultiSimilarityLoss
from torch import nn
from torch.utils.data import DataLoader, Dataset

from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.records import ImageFile
from siamese_search.training.data import decode, roomy
from siamese_search.training.loop import Trainer
from siamese_search.training.sampling import ClassSampler
from siamese_search.training.settings import Settings
from siamese_search.training.starting import starting_point

RUN = 300  # steps of a whole run
WORKERS = (0, 2)
SETTINGS = Settings(start="tf_efficientnet_lite0", dimension=512, frozen=0.0).resolved()


class Photos(Dataset[Any]):
    """The plain loop's data set: a photo is read and decoded each time it is drawn."""

    def __init__(self, files: list[ImageFile], labels: list[int]) -> None:
        from torchvision import transforms

        self.files, self.labels = files, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=(0.3, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.3, 0.3, 0.3),
                transforms.RandomGrayscale(0.05),
                transforms.ToTensor(),
                transforms.RandomErasing(0.2),
                transforms.Lambda(lambda pixels: 255 * pixels),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.files[index].path) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


class PlainLoop:
    """Forward, loss, backward, step: fp32, torch's own memory layout and threads."""

    def __init__(self, network: nn.Module, files: list[ImageFile], labels: list[int]) -> None:
        self.network = network
        self.photos = Photos(files, labels)
        self.sampler = ClassSampler(labels, SETTINGS.classes, SETTINGS.images, seed=0)
        self.loss = MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=SETTINGS.rate or 0.0)

    def images_per_second(self, workers: int, steps: int) -> float:
        batches = [self.sampler.batch(number)[0].tolist() for number in range(steps)]
        pictures = sum(map(len, batches))

        def run() -> None:
            self.network.train()
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            loader = DataLoader(self.photos, batch_sampler=batches, num_workers=workers)
            for images, classes in loader:
                loss = self.loss(self.network.embed(images), classes)  # type: ignore[operator]
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

        return pictures / seconds(run)


def our_rate(trainer: Trainer, steps: int) -> float:
    """Images per second of the training loop, its validation aside."""
    return steps * SETTINGS.classes * SETTINGS.images / seconds(partial(our_steps, trainer, steps))


def our_steps(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer._train_step()
        trainer.step += 1


def bare_rate(trainer: Trainer, steps: int) -> float:
    """Images per second of forward, loss and backward alone, on a batch that lies ready."""
    views, classes, _ = trainer.batches.batch(0)
    targets = torch.from_numpy(classes)
    trainer._set_modes()

    def run() -> None:
        for _ in range(steps):
            trainer.network.zero_grad(set_to_none=True)
            with trainer._precision():
                embeddings = trainer._embed(views).float()
            trainer.loss(embeddings, targets).backward()

    return steps * len(classes) / seconds(run)


def draw(raw: Mapping[str, Sequence[float]], whole: Sequence[float]) -> None:
    """Plot the rates beside what forward, loss and backward alone allow."""
    figures = medians({**raw, "siasearch with decoding": whole})
    lengths("training_speed", {"Training": figures}, across="images a second")


def main() -> None:
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--steps", type=int, default=6, help="a repetition's, default 6")
    options = arguments.parse_args()
    files = [ImageFile(photo.path, photo.fine) for photo in grocery_split("train")]
    classes = {fine: n for n, fine in enumerate(sorted({file.identity for file in files}))}
    start = starting_point(SETTINGS)
    network, architecture, how = start.network, start.architecture, start.how
    decoded: list[Any] = []
    decoding = seconds(
        lambda: decoded.append(decode(files, classes, roomy(how), SETTINGS.cache_bytes)[0])
    )
    trainer = Trainer(network, SETTINGS, decoded[0], None, how, "cpu")
    plain_network = EmbeddingNetwork(architecture)
    plain_network.load_state_dict(trainer.network.state_dict())
    plain = PlainLoop(plain_network, files, [classes[file.identity] for file in files])
    raw = interleaved(
        {
            **{
                f"plain loop, {workers} workers": partial(
                    plain.images_per_second, workers, options.steps
                )
                for workers in WORKERS
            },
            "siasearch": partial(our_rate, trainer, options.steps),
            "forward + loss + backward": partial(bare_rate, trainer, options.steps),
        },
        options.repeats,
        warmups=1,
    )
    middle = medians(raw)
    best = max((name for name in raw if name.startswith("plain")), key=lambda name: middle[name])
    pictures = RUN * SETTINGS.classes * SETTINGS.images
    whole = [pictures / (decoding + pictures / rate) for rate in raw["siasearch"]]
    overhead = 100 * (median_ratio(raw["forward + loss + backward"], raw["siasearch"]) - 1)
    rows = [(name, f"{middle[name]:.1f}") for name in raw]
    rows.append((f"siasearch, {RUN} steps and decoding", f"{statistics.median(whole):.1f}"))
    table(f"Training, images/s, medians of {options.repeats}", ("what", "rate"), rows)
    print(f"  decoding {len(files)} photos: {decoding:.1f} s")
    bars = Bars()
    bars.at_least("a run against the better plain loop", median_ratio(whole, raw[best]), 2, "x")
    bars.at_most("overhead over forward, loss and backward", overhead, 10, " %")
    bars.show()
    draw(raw, whole)
    facts = {
        "machine": machine(),
        "images per second": raw,
        "decoding seconds": decoding,
        "whole run": whole,
        "bars": bars.rows,
    }
    (RESULTS / "training_speed.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
