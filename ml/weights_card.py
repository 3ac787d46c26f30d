"""What comes with weights: a model card in figures (JSON), and one text for people that is written from the cards.

A card says how the weights were made and how they do on towns that were held back; after Mitchell et al. 2019 (Model
cards for model reporting, FAT*).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from historymap_lib import artifacts
from ml.checkpoint import OUTLINES, PIXELS, save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

README = "README.md"
ROOF_PLACES = "Zanzibar (Tanzania), Nairobi (Kenya) and Catanduanes (Philippines)"
INTRODUCTION = """\
# Weights that come with historymap

Made by `python -m ml.pretrain`, which also writes this text: change it there (`ml/weights_card.py`). The figures are
those of the cards (`.json`) beside the weights.

**For what.** A first guess at which of today's buildings an old aerial photo shows, and a start for training on a case
of one's own. Not for settling what stood: the verdicts of `historymap verify` say how sure they are, and people judge
the rest.
"""
PAINTED = """\
- **Painted towns** of this package (`historymap_lib/sample_varied.py`): no place on earth, with their truth, each with
  its own fabric, light, film and resolution. The painter's styles were shaped by eye with the photo of Banepa beside
  them.
"""
REAL = f"""\
- **Real roofs** of three towns: {ROOF_PLACES}. Imagery:
  OpenAerialMap, CC BY 4.0. Footprints: © OpenStreetMap contributors, ODbL 1.0. Both by way of hotosm/fAIr-utilities.
  All of these roofs stand on their photos; the footprint network alone learned from them.
"""
NEVER = "- **Never** trained on any set of Banepa, neither its photo nor its footprints nor its truth.\n"
LIMITS = """\
## Limits

Trained on buildings of 4 to some 100 metres on photos of about 0.2 to 1 m a pixel, grey, from above. Weak where roofs
are as bright as the ground around them, under trees, and where a new house stands on the place of an old one. The
held-back towns are painted like those it learned from, so real photos are harder than the figures say.
"""


def write_weights(path: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write weights, their card (`facts` and the hash of the weights) beside them, and the text on all in the folder.

    The card is there with its weights or not at all.
    """
    card = path.with_suffix(".json")
    card.unlink(missing_ok=True)
    save_weights(path, network)
    content = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    artifacts.write_json(card, content | facts)
    artifacts.write_text(path.with_name(README), describe_weights(path.parent))


def describe_weights(folder: Path) -> str:
    """Return the text on the weights in a folder, from their cards (Markdown)."""
    cards = {name: _card(folder / name) for name in (OUTLINES, PIXELS)}
    known = {name: card for name, card in cards.items() if card is not None}
    roofs = any(card.get("roofs") for card in known.values())
    parts = [INTRODUCTION, "## Data and licences\n", PAINTED + (REAL if roofs else "") + NEVER]
    if OUTLINES in known:
        parts += [_footprint_part(known[OUTLINES])]
    if PIXELS in known:
        parts += [_unet_part(known[PIXELS])]
    return "\n".join([*parts, LIMITS])


def _card(weights: Path) -> dict[str, Any] | None:
    file = weights.with_suffix(".json")
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _footprint_part(card: dict[str, Any]) -> str:
    held = card["held_back"]
    roofs = f" and the roofs of {len(card['roofs'])} photos" if card["roofs"] else ""
    return f"""\
## {OUTLINES}: the footprint network

Does the photo show a building that fits this outline, and how far off does it lie? (`ml/footprint_network.py`)
Learned from {card["outlines"]:,} outlines of {card["towns"]} painted towns{roofs}, {card["steps"]:,} steps.

On {len(held)} painted towns that were held back, with {sum(town["buildings"] for town in held):,} footprints:

| | mean | worst |
| --- | --- | --- |
| AUC, what stood against what came later | {_mean(held, "auc"):.3f} | {min(town["auc"] for town in held):.3f} |
| the same with phantoms and misfits among the latter | {_mean(held, "auc_with_misfits"):.3f} \
| {min(town["auc_with_misfits"] for town in held):.3f} |
| median error of where a building lies that is 1 m off (m) | {_mean(held, "shift_metres"):.2f} \
| {max(town["shift_metres"] for town in held):.2f} |

{_made(card)}"""


def _unet_part(card: dict[str, Any]) -> str:
    held = card["held_back"]
    return f"""\
## {PIXELS}: the U-Net

Which pixels are building? (`ml/model.py`, widths 16, 32, 64, 128, stride 2)
Learned from {card["pixels"] / 1e6:,.0f} million pixels of {card["towns"]} painted towns, {card["steps"]:,} steps.

On {len(held)} painted towns that were held back: intersection over union {_mean(held, "iou"):.3f} on average, \
{min(town["iou"] for town in held):.3f} at worst.

{_made(card)}"""


def _made(card: dict[str, Any]) -> str:
    return f"""\
Made by `{card["command"]}` on {card["device"]} with torch {card["torch"]}: {card["towns_seconds"]:,} s to paint, \
{card["seconds"]:,} s to learn. SHA-256 `{card["sha256"]}`.
"""


def _mean(held: list[dict[str, float]], name: str) -> float:
    return float(np.mean([town[name] for town in held]))
