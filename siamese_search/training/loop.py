"""The training loop: batches through one network, whose weights all pictures share.

Every random choice of a step follows from the seed and the step's number alone, so that a run
that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.arrays import FloatArray
from siamese_search.decision.trained import View
from siamese_search.embedding.network import EmbeddingNetwork
from siamese_search.errors import TrainingError, UsageError
from siamese_search.pictures.preprocessing import Preprocessing
from siamese_search.training import augmentation, checkpoint, distributed, hardware, outcome
from siamese_search.training.batches import Batches
from siamese_search.training.data import Content, Pictures
from siamese_search.training.losses import LOSSES
from siamese_search.training.resolution import require_small
from siamese_search.training.retrieval import Retrieval, confusable, retrieval
from siamese_search.training.selection import Selection, Trained, Weights
from siamese_search.training.settings import Settings
from siamese_search.training.views import lower_layers, training_view

EVALUATION_BATCH = 64
PIECE = 16
UNALTERED = augmentation.PRESETS["none"]
HARD_NEIGHBOURS = 16
DIGEST = 8  # bytes of a picture's SHA-256 that a checkpoint keeps


@dataclass(frozen=True)
class Epoch:
    """Metrics of an epoch: what ``metrics.jsonl`` has in a line. ``rate`` is AdamW's at its end."""

    epoch: int
    step: int
    loss: float
    rate: float
    recall: float | None  # recall@1 on what is held out, leaving each picture out of its search
    precision: float | None  # mAP@R there, the mean over the classes
    images_per_second: float
    seconds: float


class _Embedding(nn.Module):
    """A network's ``embed`` as a forward pass, which is what is made parallel."""

    def __init__(self, network: EmbeddingNetwork, piece: int | None) -> None:
        super().__init__()
        self.network = network
        self.piece = piece

    def forward(self, images: Tensor) -> Tensor:
        pieces = torch.split(images, self.piece or len(images))
        return torch.cat([self.network.embed(piece) for piece in pieces])


class Trainer:
    """One run's state. ``train`` yields after every epoch; in between it can be saved."""

    def __init__(
        self,
        network: EmbeddingNetwork,
        settings: Settings,
        training: Pictures,
        validation: Pictures | None,
        how: Preprocessing,
        device: str,
    ) -> None:
        self.settings = settings
        self.training, self.validation = training, validation
        self.size = how.height, how.width
        self.share = how.crop_fraction if how.resize == "crop" else 1.0
        self.device = torch.device(device)
        self.unlabelled = settings.loss == "self-supervised"
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(settings.seed)
        make = LOSSES[settings.loss]
        self.batches = Batches(training, settings, self.size)
        self.loss = make(self.batches.classes, network.dimension).to(self.device)
        # A loss that must know all classes has no place for further ones.
        if not self.unlabelled and not any(True for _ in self.loss.parameters()):
            self.batches.join()
        for parameter in lower_layers(self.network.backbone, settings.frozen or 0.0):
            parameter.requires_grad_(False)
        self._trained = [p for p in self.network.backbone.parameters() if p.requires_grad]
        probe = torch.rand(2, how.channels, *self.size, device=self.device) * 255
        if settings.coarse and settings.steps:
            require_small(self.network, probe)
        self._view = training_view(self.network, probe, bool(settings.freeze_norm))
        # Where no picture depends on another, pieces of a batch stay in a processor's cache.
        apart = bool(settings.freeze_norm) and self.device.type == "cpu"
        self._embed = distributed.parallel(_Embedding(self._view, PIECE if apart else None))
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = self._optimizer()
        self.selection = Selection(self.weights())
        self.step = 0
        self.data = ""  # names what is trained on, so that no other run is resumed
        self.contents: tuple[Content, ...] = ()  # what those files held
        self._half = hardware.half_precision(self.device)

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW; no decay on biases and norms, the backbone slower, proxies faster."""
        rate, decay = self.settings.rate or 0.0, self.settings.weight_decay
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if not parameter.requires_grad:
                continue
            factor = self.settings.backbone_rate if name.startswith("backbone.") else 1.0
            key = (rate * (factor or 0.0), decay if parameter.ndim > 1 else 0.0)
            groups.setdefault(key, []).append(parameter)
        if not groups:
            raise UsageError("nothing is left to train: take a smaller --frozen, or a --dimension")
        proxies = list(self.loss.parameters())
        if proxies:
            groups[(30 * rate, 0.0)] = proxies
        return torch.optim.AdamW(
            [
                {"params": parameters, "lr": lr, "peak": lr, "weight_decay": decay}
                for (lr, decay), parameters in groups.items()
            ]
        )

    def train(
        self, watch: Callable[[int, float], None] = lambda step, loss: None
    ) -> Iterator[Epoch]:
        """Train to the last step, or until ``patience`` epochs in turn were worse than the best, or
        nothing was gained by the share ``give_up`` of the steps.

        Raises TrainingError where the loss is no number any more.
        """
        while self.step < self.settings.steps and self.ended() is None:
            begun, first, losses = time.perf_counter(), self.step, []
            self._mine()
            last = min(self.settings.steps, first + self.settings.epoch_steps)
            while self.step < last:
                losses.append(self._train_step())
                self.step += 1
                watch(self.step, losses[-1])
            took = time.perf_counter() - begun
            found = self.validate()
            pictures = (self.step - first) * self.batches.pictures
            yield Epoch(
                epoch=math.ceil(self.step / self.settings.epoch_steps),
                step=self.step,
                loss=sum(losses) / len(losses),
                rate=self.optimizer.param_groups[0]["lr"],
                recall=found.recall if found else None,
                precision=found.precision if found else None,
                images_per_second=pictures / took,
                seconds=took,
            )

    def ended(self) -> str | None:
        """Why a run ends before its last step, in words; None where it does not.

        Steps that see small pictures, ``coarse`` of them, do not count for that.
        """
        if self.step >= self.settings.steps:
            return None
        at, share = f"at step {self.step} of {self.settings.steps}", self.settings.give_up
        if self.selection.stale >= self.settings.patience:
            return f"{at}: {self.selection.stale} epochs in a row were worse than the best"
        # What begins with noise gains, and has nothing that it could keep.
        if share is None or self.settings.start == "scratch" or not self.selection.gains_nothing:
            return None
        if self.selection.first is not None and self.selection.first.precision >= 1:
            return f"{at}: the start finds all that is held out, and cannot be improved on there"
        coarse = self.settings.coarse
        if self.step < (coarse + share * (1 - coarse)) * self.settings.steps:
            return None
        return f"{at}: nothing was gained over the start, and it did not get better any more"

    def _train_step(self) -> float:
        views, classes, seed = self.batches.batch(self.step)
        views = views.to(self.device, memory_format=torch.channels_last)
        self._set_modes()
        torch.manual_seed(seed)  # for dropout
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._schedule()
        with self._precision():
            embeddings = distributed.gathered(self._embed(views).float())
        targets = torch.from_numpy(classes).to(self.device)
        loss = self.loss(embeddings, targets)
        value = float(loss.detach())
        self._refuse_unless_finite("loss", value)
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # a miner may find nothing to learn from in a batch
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
            self._refuse_unless_finite("gradient's norm", float(norm))
            self.optimizer.step()
        self._average()
        return value

    def _refuse_unless_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            saved = (
                "; what earlier epochs saved is good"
                if self.step >= self.settings.epoch_steps
                else ""
            )
            raise TrainingError(
                f"the {what} is {value} at step {self.step + 1}{saved}: try a learning rate below"
                f" {self.settings.rate:g}, in another folder"
            )

    def _set_modes(self) -> None:
        """Training mode, but for what is frozen."""
        self._view.train()
        frozen = self.step < self.settings.freeze
        for parameter in self._trained:
            parameter.requires_grad_(not frozen)
        for module in self._view.backbone.modules():
            if isinstance(module, _BatchNorm):
                still = [p.requires_grad for p in module.parameters()]
                if self.settings.freeze_norm or (still and not any(still)):
                    module.eval()

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to nought."""
        warm = max(1.0, self.settings.warm_up * self.settings.steps)
        if self.step < warm:
            return (self.step + 1) / (warm + 1)
        share = (self.step - warm) / max(1.0, self.settings.steps - warm)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average, faster at first (as in TensorFlow's)."""
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for kept, new in zip(
            self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            yield

    # Validation and mining

    @torch.inference_mode()
    def embed(self, pictures: Pictures) -> FloatArray:
        """Embeddings of pictures by the averaged weights, float32 (n, dimension)."""
        parts = []
        for start in range(0, len(pictures), EVALUATION_BATCH):
            pixels = torch.from_numpy(pictures.pixels[start : start + EVALUATION_BATCH])
            with self._precision():
                parts.append(self.averaged(pixels.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)

    def validate(self) -> Retrieval | None:
        """Measure what is held out, and keep the weights if no earlier ones were better."""
        found = None
        if self.validation is not None:
            found = distributed.told(self._retrieval() if distributed.rank() == 0 else None)
        self.selection.see(self.step, found, self.weights)
        if self.step <= self.settings.coarse * self.settings.steps:
            self.selection.be_patient()
        return found

    def _retrieval(self) -> Retrieval:
        assert self.validation is not None
        return retrieval(self.embed(self.validation), self.validation.labels)

    def weights(self) -> dict[str, Tensor]:
        return {name: t.detach().cpu().clone() for name, t in self.averaged.state_dict().items()}

    def settle(self) -> None:
        """Take the weights that are kept, averaged with the starting point's where that is better.

        Averaging makes no sense from scratch, whose starting weights are noise.
        """

        def judge(weights: Weights) -> Retrieval:
            self.averaged.load_state_dict(weights)
            return self._retrieval()

        if self.validation is not None and self.settings.start != "scratch":
            self.selection.blend(judge, self.weights())
        assert self.selection.weights is not None
        if self.selection.trained is None:
            self.selection.trained = Trained(self.selection.weights, self.selection.found)
        self.take_kept()

    def take_kept(self) -> None:
        """Embed by the weights that are kept from now on."""
        assert self.selection.weights is not None
        self.averaged.load_state_dict(self.selection.weights)

    def finish(self) -> None:
        """Embed from now on as the encoder will that is written: on the CPU, in float32, by
        rounded weights. Places are made of what the trained features vary in.
        """
        if self.averaged.place_shape is not None and self.selection.step > 0:
            self.averaged.fit_places(
                torch.from_numpy(seen.pixels).to(self.device)
                for seen in self.queried(self.training.some())
            )
        outcome.final(self.averaged)
        self.device, self._half = torch.device("cpu"), False

    def view(self, weights: Weights, held: Pictures, enrolled: Pictures | None) -> View:
        """What weights make of pictures that are held out and of such that are trained on."""
        kept = self.weights()
        self.averaged.load_state_dict(weights)
        none = np.empty((0, self.network.dimension), np.float32)
        seen = none if enrolled is None else self._as_queried(enrolled)
        made = View(self.embed(held), seen)
        self.averaged.load_state_dict(kept)
        return made

    def _mine(self) -> None:
        """Offline: the classes most alike to each, by their nearest pictures of other classes."""
        every = self.settings.hard_every * self.settings.epoch_steps
        if not every or self.unlabelled or self.step == 0 or self.step % every:
            return
        if distributed.rank() == 0:
            labels = self.training.labels
            alike = confusable(self._as_queried(self.training), labels, HARD_NEIGHBOURS)
            self.batches.sampler.neighbours = self.batches.among_turned(alike)
        self.batches.sampler.neighbours = distributed.told(self.batches.sampler.neighbours)

    def _as_queried(self, pictures: Pictures) -> FloatArray:
        """Embeddings of training pictures as queries see them."""
        return np.concatenate([self.embed(seen) for seen in self.queried(pictures)])

    def queried(self, pictures: Pictures) -> Iterator[Pictures]:
        """Training pictures as queries see them, batch by batch."""
        for start in range(0, len(pictures), EVALUATION_BATCH):
            pixels = pictures.pixels[start : start + EVALUATION_BATCH]
            if self.share < 1:
                top, left = (
                    (a - b) // 2 for a, b in zip(pixels.shape[1:3], self.size, strict=True)
                )
                pixels = pixels[:, top : top + self.size[0], left : left + self.size[1]]
            elif pixels.shape[1:3] != self.size:
                views = augmentation.augment(torch.from_numpy(pixels), UNALTERED, self.size, seed=0)
                pixels = views.round().byte().permute(0, 2, 3, 1).numpy()
            labels = pictures.labels[start : start + EVALUATION_BATCH]
            yield Pictures(pixels, labels)

    # Checkpoints

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        tensors: dict[str, Tensor] = {}
        modules = {"network": self.network, "averaged": self.averaged, "loss": self.loss}
        for prefix, module in modules.items():
            tensors |= {f"{prefix}.{name}": t for name, t in module.state_dict().items()}
        tensors |= self.selection.tensors()
        if self.contents:
            digests = b"".join(bytes.fromhex(one.digest)[:DIGEST] for one in self.contents)
            tensors["contents"] = torch.frombuffer(bytearray(digests), dtype=torch.uint8)
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": t for name, t in state.items()}
        if self.batches.sampler.neighbours is not None:
            tensors["neighbours"] = torch.from_numpy(self.batches.sampler.neighbours)
        facts = {
            "settings": asdict(self.settings),
            "step": self.step,
            "data": self.data,
            **self.selection.facts(),
        }
        checkpoint.write_checkpoint(path, tensors, facts)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same settings. Raises TrainingError for another's."""
        tensors, facts = checkpoint.read_checkpoint(path)
        saved = {"coarse": 0.0} | facts["settings"]  # which runs of earlier releases had not
        differing = [
            f"{name} was {saved.get(name)}, not {value}"
            for name, value in asdict(self.settings).items()
            if saved.get(name) != value and name != "cache_bytes"
        ]
        if differing:
            raise TrainingError(f"{path} is of a run with other settings: {'; '.join(differing)}")

        if facts.get("data") != self.data:
            raise TrainingError(
                f"{path} is of a run with other pictures or another start: put them back, or train"
                " in another folder"
            )
        self._refuse_other_contents(path, tensors.get("contents"))

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}

        try:
            self.network.load_state_dict(part("network"))
            self.averaged.load_state_dict(part("averaged"))
            self.loss.load_state_dict(part("loss"))
        except RuntimeError as error:
            raise TrainingError(
                f"{path} is of another architecture or of other classes:"
                f" {str(error).splitlines()[-1].strip()}"
            ) from error
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part("optimizer").items():
            number, _, field = name.partition(".")
            states.setdefault(int(number), {})[field] = tensor
        self.optimizer.load_state_dict(
            {"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        if "neighbours" in tensors:
            self.batches.sampler.neighbours = tensors["neighbours"].numpy()
        self.step = facts["step"]
        self.selection.restore(tensors, facts)

    def _refuse_other_contents(self, path: Path, saved: Tensor | None) -> None:
        """Raise TrainingError where a picture is no more what it was, though its name is."""
        if saved is None or not self.contents:  # a run of an earlier release
            return
        known = [bytes(row) for row in saved.reshape(-1, DIGEST).tolist()]
        now = [bytes.fromhex(one.digest)[:DIGEST] for one in self.contents]
        changed = [
            one.path for one, old, new in zip(self.contents, known, now, strict=False) if old != new
        ]
        if len(known) != len(now):
            changed = [f"{len(now)} of them are readable where {len(known)} were"]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise TrainingError(
                f"{path} is of a run with other pictures of the same names"
                f" ({', '.join(changed[:3])}{more}): put them back, or train in another folder"
            )
