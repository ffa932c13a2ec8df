"""The plan of a run: which settings suit the pictures, and why, in plain words.

A dozen rules, no search. What a user has set always wins. Knows nothing of networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamese_search.errors import StorageError, TrainingError
from siamese_search.files import write_whole
from siamese_search.training.data import FEW_CLASSES, SPARING
from siamese_search.training.settings import Settings
from siamese_search.training.survey import Survey, in_words

NAME = "plan.json"

MOSTLY = 0.8  # of the pictures looked at
DRAWN = ("scratch", "glyph")  # starts that see small pictures of what is drawn
DRAWN_CLASSES = 300  # of drawings, from which on a network from scratch has enough to learn from
BATCH, SMALL_BATCH = 64, 256  # pictures; small ones take a fraction of the time
IMAGES = 4
PASSES, SCRATCH_PASSES = 5, 25  # over the pictures; more over-fits what a start knows already
STEPS, SCRATCH_STEPS = (60, 600), (600, 1800)  # at least, at most
LOOKS = 12  # at what is held out, in a run
SOME_CLASSES, MANY_CLASSES = 30, 250
GIVE_UP = 0.5
FLATTERING = 0.1  # of the pictures looked at are nearly the same as another
UNTRAINED = ("start", "holdout", "steps", "crop")  # what counts where nothing is trained
OPTIONS = {"start": "from", "augmentation": "augment"}  # what the command calls them


@dataclass(frozen=True)
class Choice:
    """A setting, its value, and why; ``given`` where the user has set it."""

    setting: str
    value: Any
    reason: str
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run will do. ``otherwise`` is the shipped encoder that one would use for such pictures
    without training; ``cautions`` are what one should know of the pictures.
    """

    survey: Survey
    choices: tuple[Choice, ...]
    settings: Settings
    otherwise: str
    cautions: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Keep it beside the run, which may be resumed."""
        content = json.dumps(self.facts(), indent=2) + "\n"
        write_whole(folder / NAME, content.encode())

    def facts(self) -> dict[str, Any]:
        """The same as JSON, without the settings, which a run's record has."""
        facts = asdict(self)
        del facts["settings"]
        return facts

    @classmethod
    def read(cls, folder: Path, settings: Settings) -> Plan | None:
        """The plan of the run in a folder, which has these settings; None where it has none.

        Raises TrainingError where it is damaged.
        """
        path = folder / NAME
        if not path.exists():
            return None
        try:
            facts = json.loads(path.read_text("utf-8"))
            return cls(
                Survey(**facts["survey"]),
                tuple(Choice(**one) for one in facts["choices"]),
                settings,
                facts["otherwise"],
                tuple(facts["cautions"]),
            )
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"{path} is damaged ({error}): remove it, and resume") from error


def planned(seen: Survey, given: Mapping[str, Any], processes: int = 1) -> Plan:
    """The plan for pictures that were looked at. ``given`` are the settings that a user has set, by
    their names in ``Settings``; so many ``processes`` share each batch. Raises UsageError for
    settings that make no sense.
    """
    Settings(**given).resolved()
    settings: dict[str, Any] = dict(given)
    choices = []
    for setting, value, reason in _rules(seen, settings, processes):
        own = setting in given
        settings.setdefault(setting, value)
        choices.append(Choice(setting, settings[setting], "as you say" if own else reason, own))
    chosen = {one.setting for one in choices}
    # What no rule is about.
    others = [Choice(name, one, "as you say", True) for name, one in given.items()]
    return Plan(
        seen,
        (*choices, *(one for one in others if one.setting not in chosen)),
        Settings(**settings),
        _otherwise(seen),
        tuple(_cautions(seen)),
    )


def drawings(seen: Survey) -> bool:
    """Whether the pictures are characters or symbols."""
    return seen.drawings >= MOSTLY


def _otherwise(seen: Survey) -> str:
    return "glyph" if drawings(seen) else "general-2"


def _rules(
    seen: Survey, settings: Mapping[str, Any], processes: int
) -> Iterator[tuple[str, Any, str]]:
    """(setting, value, reason); ``settings`` has what is set already, which later rules heed."""
    yield _start(seen, settings.get("steps") != 0)
    scratch = settings["start"] == "scratch"
    if drawings(seen):
        yield "augmentation", "glyph", "drawings must not be mirrored; turned, they are new classes"
    else:
        yield (
            "augmentation",
            "photo",
            "mirrored, cut, lit in another way; take upright where left and right differ",
        )
    lonely = seen.singles == seen.classes
    if lonely:
        yield "loss", "self-supervised", "no class has two pictures: two views of each make a pair"
    else:
        yield "loss", "multi-similarity", "the pairs of a batch that are hard count most"
    yield _holdout(seen)
    yield _images(seen, settings["loss"])
    yield _classes(seen, settings, processes)
    yield _steps(seen, settings, scratch)
    steps = settings["steps"]
    looks = max(1, -(-steps // LOOKS))
    spared = _holds_out(seen, settings)
    times = f"what is held out is looked at {-(-steps // looks)} times"
    yield "epoch_steps", looks, times if spared else "nothing is held out that could be looked at"
    if not scratch and spared:
        of = "its steps of the whole size" if settings.get("coarse") else "its steps"
        yield "give_up", GIVE_UP, f"a run that has gained nothing by half of {of} ends"
    if settings["start"] in DRAWN:
        yield "crop", None, "a square around what is drawn is seen"
    else:
        yield (
            "crop",
            None,
            "as the encoder has it; try 0.75 where things stand in the middle of busy pictures",
        )


def _start(seen: Survey, trains: bool) -> tuple[str, str, str]:
    if not drawings(seen):
        return "start", "general-2", "photos: it knows things of many kinds"
    if not trains:
        return "start", "glyph", "drawings: it knows characters"
    if seen.classes >= DRAWN_CLASSES:
        reason = f"drawings of {DRAWN_CLASSES} classes or more: enough to learn from nothing"
        return "start", "scratch", reason
    return "start", "glyph", f"drawings of fewer than {DRAWN_CLASSES} classes: it knows characters"


def _holdout(seen: Survey) -> tuple[str, float, str]:
    several = seen.classes - seen.singles
    if not several:
        return "holdout", 0.0, "nothing can be held out, since no class has two pictures"
    if several < FEW_CLASSES and not _spares(seen):
        return "holdout", 0.0, "nothing can be held out, since classes and their pictures are few"
    if several < FEW_CLASSES:
        return "holdout", 0.2, "pictures of each class are held out, since classes are few"
    if several < SOME_CLASSES:
        return "holdout", 0.3, "classes are few, and three or more must judge"
    if several >= MANY_CLASSES:
        return "holdout", 0.1, "classes are many, and a tenth judges well enough"
    return "holdout", 0.2, "a fifth of the classes judges how well new ones are told apart"


def _images(seen: Survey, loss: str) -> tuple[str, int, str]:
    if loss == "self-supervised":
        return "images", 2, "two views of each picture"
    count = max(2, min(IMAGES, seen.each))
    if count == IMAGES:
        return "images", count, "of each class in a batch: most have so many"
    return "images", count, f"most classes have no more than {seen.each}"


def _classes(seen: Survey, settings: Mapping[str, Any], processes: int) -> tuple[str, int, str]:
    small = settings["start"] in DRAWN
    pictures = SMALL_BATCH if small else BATCH
    left = _trained(seen, settings)
    if settings["loss"] != "self-supervised":
        left = seen.classes - _held_classes(seen, settings)
    count = max(2, min(pictures // settings["images"], left))
    count = max(processes, 2, count - count % processes)  # processes take as many each
    if count * settings["images"] > pictures - settings["images"]:
        size = f"a batch of {count * settings['images']} pictures"
        why = ", small ones being cheap: more make harder pairs" if small else ""
        return "classes", count, size + why
    if count < left:
        return "classes", count, f"as many as {processes} processes can share evenly"
    return "classes", count, "all that are trained on"


def _held_classes(seen: Survey, settings: Mapping[str, Any]) -> int:
    """How many classes are held out, see ``data.split``; 0 where pictures of each are, or none."""
    several = seen.classes - seen.singles
    count = min(round(settings["holdout"] * seen.classes), several, seen.classes - 2)
    return count if several >= FEW_CLASSES and count >= 2 else 0


def _spares(seen: Survey) -> bool:
    """Whether pictures of two classes or more can be held out."""
    return seen.each >= SPARING if seen.fours is None else seen.fours >= 2


def _holds_out(seen: Survey, settings: Mapping[str, Any]) -> bool:
    return bool(settings["holdout"] and (_held_classes(seen, settings) or _spares(seen)))


def _trained(seen: Survey, settings: Mapping[str, Any]) -> int:
    """How many pictures are trained on."""
    share: float = settings["holdout"] if _holds_out(seen, settings) else 0.0
    if share and not _held_classes(seen, settings):
        share = max(share, 2 / max(seen.each, SPARING))  # two of each class at least
    return max(1, round((1 - share) * seen.pictures))


def _steps(seen: Survey, settings: Mapping[str, Any], scratch: bool) -> tuple[str, int, str]:
    batch = settings["classes"] * settings["images"]
    passes = SCRATCH_PASSES if scratch else PASSES
    least, most = SCRATCH_STEPS if scratch else STEPS
    wanted = 10 * round(passes * _trained(seen, settings) / batch / 10)
    steps = min(most, max(least, wanted))
    if steps == wanted:
        return "steps", steps, f"every picture is seen about {passes} times"
    end = "least" if steps == least else "most"
    times = steps * batch / _trained(seen, settings)
    return "steps", steps, f"the {end}: every picture is seen about {times:.0f} times"


def _cautions(seen: Survey) -> Iterator[str]:
    if seen.twins is not None and seen.twins >= FLATTERING:
        yield (
            f"{seen.twins:.0%} of the pictures looked at are nearly the same as another of their"
            " class: figures of what is held out flatter, so leave copies out"
        )
    if 1 - MOSTLY < seen.drawings < MOSTLY:
        yield (
            f"{seen.drawings:.0%} of the pictures looked at are drawings, the others photos: train"
            " an encoder for each kind"
        )


def in_lines(plan: Plan) -> Iterator[str]:
    """The plan for people."""
    yield in_words(plan.survey)
    names = {one.setting: OPTIONS.get(one.setting, one.setting) for one in plan.choices}
    values = {one.setting: "as it is" if one.value is None else one.value for one in plan.choices}
    widths = [max(len(str(one)) for one in column.values()) for column in (names, values)]
    for one in plan.choices:
        if not plan.settings.steps and one.setting not in UNTRAINED:
            continue
        name, value = names[one.setting], values[one.setting]
        yield f"  {name:<{widths[0]}}  {value!s:<{widths[1]}}  {one.reason}"
    for caution in plan.cautions:
        yield f"note: {caution}"
