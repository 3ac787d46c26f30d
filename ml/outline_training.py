"""Fine-tune the footprint network on a case: its own footprints against its own phantoms and misfits.

Nobody has said which footprints the photo shows. So each counts as what it probably is, by the two-group model of
`historymap_lib.calibration` on what the network says of it so far (expectation-maximisation), unless a person has
judged it. A member for each fold learns from all others and is the only one that judges its own: otherwise a footprint
that came later would be taken to have stood since the member learned so. Misfits are right for certain only where the
footprint underneath stood, and so are drawn as often as that is likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from historymap_lib.annotation_store import settled
from historymap_lib.annotations import answers_on
from historymap_lib.calibration import FEW, TwoGroups
from historymap_lib.imagery import open_photo
from historymap_lib.progress import Bar
from ml import runtime
from ml.checkpoint import footprint_network
from ml.first_look import look_first
from ml.footprint_network import Augmentation
from ml.footprint_training import FOOTPRINT, MISFIT, PHANTOM, Examples, Plan, ask, fit
from ml.looks import fold_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from historymap_lib.project import Project
    from historymap_lib.settings import Training
    from historymap_lib.tiles import Folds
    from ml.chips import Chips
    from ml.footprint_network import FootprintNetwork
    from ml.looks import Case

    State = dict[str, torch.Tensor]

MOST = 6000
"""Footprints that are learned from; of more, so many are drawn."""
CERTAIN = 5.0
"""A footprint that a person has judged is drawn so many times as often as another one."""
LEARNING_RATE = 8e-4
"""At its highest; the network knows buildings already."""
ON_ITS_FILM = Augmentation(blur=0.8, grain=0.25, far=0.0)
"""Crops are changed less than for the weights of the package: the film is the one that is to be judged."""
DOUBT = 0.02
"""How often a misfit is drawn at least, against one over a building that surely stood."""


def fine_tune(project: Project, folds: Folds, device: torch.device) -> list[State]:
    """Return the weights of a footprint network for each fold, or none where there is too little to learn from.

    Raises:
        HistorymapError: photo or footprints cannot be used.

    """
    settings = project.training
    if settings.outline_steps == 0:
        return []
    first = runtime.place(footprint_network(), device)
    with open_photo(project) as photo:
        case, _ = look_first(project, photo)
        lesson = _Lesson(case, folds, answers_on(case.building_id, settled(project)), settings.seed)
    if not lesson.enough(folds.count):
        return []
    members: list[FootprintNetwork] = []
    stood = lesson.guess([first] * folds.count)
    total = settings.outline_rounds * folds.count * settings.outline_steps
    with Bar("outlines", total=total, unit="step") as bar:
        for number in range(settings.outline_rounds):
            round_ = _Round(number, lesson, stood, settings, device, bar)
            members = runtime.side_by_side(round_.learn, folds.count, device)
            if number + 1 < settings.outline_rounds:
                stood = lesson.guess(members)
    return [{key: value.detach().cpu() for key, value in member.state_dict().items()} for member in members]


@dataclass(frozen=True)
class _Round:
    """A round in which each member learns anew from what is guessed by now."""

    number: int
    lesson: _Lesson
    stood: NDArray[np.float64]
    settings: Training
    device: torch.device
    bar: Bar

    def learn(self, fold: int, go_on: Callable[[], None]) -> FootprintNetwork:
        """Return the member of a fold; calls `go_on` after each step."""
        name = f"round {self.number + 1} member {fold + 1}"

        def step(loss: float) -> None:
            go_on()
            self.bar.step(f"{name} loss {loss:.3f}")

        plan = Plan(
            self.settings.outline_steps,
            learning_rate=LEARNING_RATE,
            augmentation=ON_ITS_FILM,
            seed=self.settings.seed + 100 * self.number + fold,
        )
        network = runtime.place(footprint_network(), self.device)
        return fit(network, self.lesson.examples(fold, self.stood), plan, step)


class _Lesson:
    """What a case has to teach, in memory as chips."""

    def __init__(self, case: Case, folds: Folds, said: NDArray[np.float64], seed: int) -> None:
        chosen = np.arange(len(case.footprints))
        if len(chosen) > MOST:
            asked = np.flatnonzero(~np.isnan(said))
            drawn = np.random.default_rng(seed).permutation(len(chosen))[:MOST]
            chosen = np.unique(np.concatenate([asked, drawn]))
        self.said = said[chosen]
        row = np.full(len(case.footprints), -1)
        row[chosen] = np.arange(len(chosen))
        self.chips: list[Chips] = [case.chips(case.footprints[chosen])]
        self.host = [np.arange(len(chosen))]
        self.fold = [fold_of(case, chosen, folds)]
        for shapes, host in (case.phantoms, case.misfits):
            kept = row[host] >= 0 if len(host) else np.zeros(0, bool)
            self.chips.append(case.chips(shapes[kept]))
            self.host.append(row[host[kept]])
            self.fold.append(fold_of(case, host[kept], folds))

    def enough(self, folds: int) -> bool:
        """Say whether each member has footprints and phantoms enough to learn from and to judge."""
        return all(
            (fold == number).sum() >= FEW and (fold != number).sum() >= FEW
            for fold in self.fold[:2]
            for number in range(folds)
        )

    def guess(self, members: list[FootprintNetwork]) -> NDArray[np.float64]:
        """Return how probably each footprint stood, by the members that have not learned from it."""
        logits = [self._ask(members, kind) for kind in (FOOTPRINT, PHANTOM)]
        stood = TwoGroups.fit(*logits)(logits[0])
        return np.where(np.isnan(self.said), stood, self.said)

    def examples(self, fold: int, stood: NDArray[np.float64]) -> Examples:
        """Return what a member learns from: all but its own fold."""
        asked = ~np.isnan(self.said)
        labels = (stood, 0.0, 0.0)
        weights = (np.where(asked, CERTAIN, 1.0), 1.0, stood[self.host[MISFIT]] + DOUBT)
        parts = []
        for kind in (FOOTPRINT, PHANTOM, MISFIT):
            some = np.flatnonzero(self.fold[kind] != fold)
            label, weight = (
                np.broadcast_to(value, len(self.fold[kind]))[some] for value in (labels[kind], weights[kind])
            )
            parts.append(Examples.of(kind, self.chips[kind].take(some), label, weight))
        return Examples.join(parts)

    def _ask(self, members: list[FootprintNetwork], kind: int) -> NDArray[np.float32]:
        found = np.zeros(len(self.chips[kind]), np.float32)
        for number, member in enumerate(members):
            own = np.flatnonzero(self.fold[kind] == number)
            found[own] = ask(member, self.chips[kind].take(own), mirrored=False)[0]
        return found
