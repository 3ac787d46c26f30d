"""Step 2, train: training tiles -> a U-Net for each fold.

    python ml/train.py --config ml/config_1937.yaml [--resume]

Nearly half of the labels that say *building* are wrong, since the building came later. Three things cope with it:

- *Cross-fitting.* The tiles are split into folds by spatial blocks; member k of the model learns from all folds but k
  and is the only one that predicts fold k. So no building is judged by a model that could have learned its label by
  heart; where a model judges its own labels, those that are wrong look right.
- *Mistakes of one kind.* Open ground is rightly labelled nearly everywhere, so what looks like open ground gets a low
  probability also under a footprint. The values are timid but well ordered; `verify` calibrates them.
- *Rounds.* After a round, buildings which the member that has not seen them strongly denies are left out (255), and
  the members learn on from where they were.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from historymap_lib import artifacts
from historymap_lib.errors import FootprintsError, ModelError, PhotoError, SourceError, TrainingDataError
from historymap_lib.figures import draw_history
from historymap_lib.first_look import CODE as CODE_OF_LOOK
from historymap_lib.progress import Bar
from historymap_lib.tiles import TEST, Folds
from ml import runtime
from ml.checkpoint import OUTLINES, PIXELS, WEIGHTS, begin_unet, read_checkpoint, save_model
from ml.dataset import TileData, as_input, batches, crops_in, load_tiles
from ml.denial import deny
from ml.loss import BestIou, masked_loss
from ml.model import build
from ml.outline_training import fine_tune

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from historymap_lib.project import Project

State = dict[str, torch.Tensor]
CODE = (
    *CODE_OF_LOOK,
    *(f"ml.{name}" for name in ("dataset", "denial", "loss", "outline_training", "train")),
    "historymap_lib.calibration",
)
STATE_FORMAT = "historymap-training-1"
VALIDATIONS = 20
"""How often a training looks at its validation tiles, about."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises, before it falls as a cosine."""


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    model: Path
    metrics: dict[str, Any]
    summary: str


@dataclass
class _Run:
    """A training between two epochs: all that `--resume` needs."""

    round: int = 0
    member: int = 0
    epoch: int = 0
    states: list[State] = field(default_factory=list)  # of the members finished in this round
    before: list[State] = field(default_factory=list)  # of all members after the round before
    denied: dict[str, list[str]] = field(default_factory=dict)
    network: State | None = None
    optimiser: dict[str, Any] | None = None
    best: State | None = None
    best_iou: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def train(project: Project, *, epochs: int | None = None, resume: bool = False) -> Trained:
    """Train on the tiles of a case and write `best_model.pth`, `metrics.json`, `history.json` and `history.png`.

    After each epoch the state is saved, so that `resume` goes on after a kill. The old model stays until the new one
    is finished.

    Raises:
        HistorymapError: tiles are missing or damaged, weights cannot be had, or there is nothing to resume.
    """
    runtime.prepare()
    paths = project.paths
    begin_unet(project.model)  # weights that cannot be had are told now, not in an hour
    tiles = load_tiles(paths.training, paths.corrected if paths.corrected.exists() else None)
    trainer = _Trainer(project, tiles, epochs)
    run = trainer.resume() if resume else _Run()
    trainer.fit(run)
    return trainer.finish(run)


class _Trainer:
    """Trains the members of a model, round by round."""

    def __init__(self, project: Project, tiles: list[TileData], epochs: int | None) -> None:
        self.epochs = epochs or project.training.epochs
        self.parameters = {"epochs": epochs}
        self.project, self.tiles, self.settings = project, tiles, project.training
        self.manifest = artifacts.read_manifest(project.paths.training) or {}
        if "folds" not in self.manifest:
            raise TrainingDataError(f"{project.paths.training}: has no manifest; run generate-training again")
        self.members = int(self.manifest["folds"]["count"])
        self.device = runtime.device(self.settings.device)
        self.half = runtime.is_half(self.settings.precision, self.device)
        self.state_file = project.paths.models / "training_state.pth"
        self.sources = [project.paths.training, project.paths.corrected]
        self.key = {
            "settings": project.settings("model", "training"),
            "epochs": self.epochs,
            "tiles": [artifacts.fingerprint(path) for path in self.sources],
        }
        for member in range(self.members):
            self._split(member)

    def fit(self, run: _Run) -> None:
        """Train what is still to be trained."""
        for tile in self.tiles:
            tile.denied = set(run.denied.get(tile.metadata["tile"], ()))
        total = self.settings.rounds * self.members * self.epochs
        done = (run.round * self.members + run.member) * self.epochs + run.epoch
        with Bar("train", total=total, done=done, unit="epoch") as bar:
            while run.round < self.settings.rounds:
                while run.member < self.members:
                    self._member(run, bar)
                run.before, run.states, run.member = run.states, [], 0
                run.round += 1
                if run.round < self.settings.rounds:
                    run.denied = deny(self.tiles, self._networks(run.before), self.probability)
                    count = len({name for names in run.denied.values() for name in names})
                    bar.say(f"round {run.round + 1}: {count} buildings that the model denies are left out")
                self._save(run)

    def finish(self, run: _Run) -> Trained:
        """Write the model and what is told of it."""
        paths, networks = self.project.paths, self._networks(run.before)
        outlines = self._outlines()
        metrics = self._measure(run, networks) | {"outlines": len(outlines) > 0}
        save_model(
            paths.model,
            states=run.before,
            folds=Folds(**self.manifest["folds"]),
            resolution=float(self.manifest["resolution"]),
            settings=self.project.model,
            metrics=metrics,
            outlines=outlines,
        )
        artifacts.write_json(paths.models / "metrics.json", metrics)
        artifacts.write_json(paths.models / "history.json", run.history)
        draw_history(run.history, paths.models / "history.png")
        settings = self.project.settings("model", "training")
        artifacts.write_manifest(
            paths.model,
            step="train",
            inputs=[*self.sources, WEIGHTS / OUTLINES, WEIGHTS / PIXELS],
            settings=settings,
            parameters=self.parameters,
            code=CODE,
        )
        self.state_file.unlink(missing_ok=True)
        test = metrics["test_iou"]
        text = f"{paths.model}: validation IoU {metrics['validation_iou']:.3f}"
        text += "" if test is None else f", test IoU {test:.3f}"
        return Trained(paths.model, metrics, text)

    def _outlines(self) -> list[State]:
        """Return the fine-tuned footprint networks; none where photo or footprints are not at hand here."""
        try:
            return fine_tune(self.project, Folds(**self.manifest["folds"]), self.device)
        except (PhotoError, SourceError, FootprintsError) as error:
            print(f"the footprint network stays as it comes with the package: {error}")  # noqa: T201 - the user should know
            return []

    def probability(self, network: nn.Module, image: np.ndarray) -> np.ndarray:
        """Return the probability (height x width, float32) that a network gives a whole tile."""
        network.eval()
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = network(as_input(image).to(self.device, memory_format=torch.channels_last))
        answer: np.ndarray = torch.sigmoid(logits.float())[0, 0].cpu().numpy()
        return answer

    def resume(self) -> _Run:
        """Return the saved state.

        Raises:
            ModelError: there is none, or it belongs to other settings or tiles.
        """
        content = read_checkpoint(self.state_file, STATE_FORMAT, "there is nothing to resume; train without --resume")
        if content["key"] != self.key:
            raise ModelError(
                f"{self.state_file}: belongs to other settings or tiles than today's; train without --resume"
            )
        return _Run(**content["run"])

    def _split(self, member: int) -> tuple[list[TileData], list[TileData]]:
        """Return what a member learns from and what it is validated on: its own fold."""
        learn = [tile for tile in self.tiles if tile.fold not in (member, TEST)]
        check = [tile for tile in self.tiles if tile.fold == member]
        if not learn or not check:
            raise TrainingDataError(
                f"{self.project.paths.training}: {len(self.tiles)} tiles are too few for {self.members} folds; "
                "generate more, or smaller ones with tiles.size, or fewer tiles.folds"
            )
        return learn, check

    def _member(self, run: _Run, bar: Bar) -> None:
        """Train one member to its end, saving the state after each epoch."""
        settings, (learn, check) = self.settings, self._split(run.member)
        steps = -(-crops_in(learn, settings.crop) // settings.batch_size)
        torch.manual_seed(settings.seed * 1000 + run.member)
        network = begin_unet(self.project.model)
        if run.network is not None or run.before:
            network.load_state_dict(run.network or run.before[run.member])
        network = runtime.place(network, self.device)
        optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        if run.optimiser is not None:
            optimiser.load_state_dict(run.optimiser)
        every = max(1, self.epochs // VALIDATIONS)
        while run.epoch < self.epochs and run.epoch - run.best_epoch < max(settings.patience, every):
            began = time.monotonic()
            loss = self._epoch(run, network, optimiser, learn, steps)
            run.epoch += 1
            record = {"round": run.round + 1, "member": run.member, "epoch": run.epoch, "loss": loss}
            if run.epoch % every == 0 or run.epoch == self.epochs:
                record["iou"], record["threshold"] = self._validate(network, check)
                if record["iou"] > run.best_iou:
                    run.best_iou, run.best_epoch = record["iou"], run.epoch
                    run.best = copy.deepcopy(_to_cpu(network))
            run.seconds += time.monotonic() - began
            run.history.append(record)
            run.network, run.optimiser = _to_cpu(network), optimiser.state_dict()
            self._save(run)
            bar.step(f"round {run.round + 1} member {run.member + 1} loss {loss:.3f} IoU {run.best_iou:.3f}")
        bar.step(count=self.epochs - run.epoch)
        run.states.append(run.best or _to_cpu(network))
        run.network = run.optimiser = run.best = None
        run.best_iou, run.best_epoch, run.epoch = -1.0, 0, 0
        run.member += 1

    def _epoch(
        self, run: _Run, network: nn.Module, optimiser: torch.optim.Optimizer, learn: list[TileData], steps: int
    ) -> float:
        """Train one epoch and return its mean loss."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, run.round, run.member, run.epoch])
        network.train()
        losses = []
        pairs = batches(learn, crop=settings.crop, batch_size=settings.batch_size, count=steps, rng=rng)
        for index, (images, labels) in enumerate(pairs):
            position = (run.epoch * steps + index) / (self.epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(position)
            images = images.to(self.device, memory_format=torch.channels_last)  # noqa: PLW2901
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = network(images)
            loss = masked_loss(logits, labels.to(self.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
        if not np.isfinite(losses).all():
            raise ModelError(
                f"the training has run away in epoch {run.epoch + 1}; lower training.learning_rate in "
                f"{self.project.file}"
            )
        return float(np.mean(losses))

    def _validate(self, network: nn.Module, tiles: list[TileData]) -> tuple[float, float]:
        """Return IoU and threshold on whole tiles."""
        measure = BestIou()
        for tile in tiles:
            measure.add(self.probability(network, tile.image), tile.mask)
        return measure.value()

    def _networks(self, states: list[State]) -> list[nn.Module]:
        networks = []
        for state in states:
            network = build(self.project.model.model_copy(update={"pretrained": False}))
            network.load_state_dict(state)
            networks.append(runtime.place(network, self.device))
        return networks

    def _measure(self, run: _Run, networks: list[nn.Module]) -> dict[str, Any]:
        """Return the metrics of the finished model."""
        last = [record for record in run.history if record["round"] == self.settings.rounds and "iou" in record]
        best = [max(r["iou"] for r in last if r["member"] == member) for member in range(self.members)]
        held = [tile for tile in self.tiles if tile.fold == TEST]
        test = [self._validate(network, held)[0] for network in networks] if held else []
        return {
            "validation_iou": float(np.mean(best)),
            "test_iou": float(np.mean(test)) if test else None,
            "members": [{"fold": index, "validation_iou": value} for index, value in enumerate(best)],
            "tiles": len(self.tiles),
            "corrected_tiles": sum("annotated" in tile.metadata for tile in self.tiles),
            "denied_buildings": len({name for names in run.denied.values() for name in names}),
            "parameters": sum(weights.numel() for weights in networks[0].parameters()),
            "epochs": self.epochs,
            "rounds": self.settings.rounds,
            "device": self.device.type,
            "precision": "bf16" if self.half else "fp32",
            "seconds": round(run.seconds, 1),
        }

    def _save(self, run: _Run) -> None:
        with artifacts.replacing(self.state_file) as partial:
            torch.save({"format": STATE_FORMAT, "key": self.key, "run": vars(run)}, partial)


def _schedule(position: float) -> float:
    """Return the share of the learning rate at a position (0 to 1) of the training: up, then down as a cosine."""
    if position < WARM_UP:
        return max(position / WARM_UP, 0.04)
    return float(0.5 * (1 + np.cos(np.pi * (position - WARM_UP) / (1 - WARM_UP))))


def _to_cpu(network: nn.Module) -> State:
    return {key: value.detach().cpu() for key, value in network.state_dict().items()}


if __name__ == "__main__":
    from historymap_lib.cli import step_main

    raise SystemExit(step_main("train"))
