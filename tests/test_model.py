"""The network, its published weights, the file of a model, the loss and the measure."""

from __future__ import annotations

import pickle
import warnings
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from historymap_lib.errors import ModelError
from historymap_lib.settings import Model
from historymap_lib.tiles import Folds
from ml.checkpoint import load_model, save_model
from ml.loss import BestIou, masked_loss
from ml.model import build, normalise

TINY = Model(widths=[4, 8])
FOLDS = Folds(2, 32.0, 0.0, 0.0)


def _torchvision_keys() -> set[str]:
    """Return the names in torchvision's resnet18 state dict, without those of the head."""

    def norm(name):
        return {f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    keys = {"conv1.weight"} | norm("bn1")
    for layer in range(1, 5):
        for block in range(2):
            for number in (1, 2):
                keys |= {f"layer{layer}.{block}.conv{number}.weight"} | norm(f"layer{layer}.{block}.bn{number}")
        if layer > 1:
            keys |= {f"layer{layer}.0.downsample.0.weight"} | norm(f"layer{layer}.0.downsample.1")
    return keys


@pytest.mark.parametrize(
    "model",
    [
        Model(widths=[4, 8], stride=1),
        Model(widths=[4, 8], stride=2),
        Model(widths=[4, 4, 4, 4, 4], stride=2),
        Model(widths=[4, 4, 4, 4, 4, 4], stride=1),
        Model(encoder="resnet18"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (1, 1, 96, 64)], ids=str)
def test_gives_a_logit_for_every_pixel(model, shape):
    with torch.inference_mode():
        assert build(model).eval()(torch.zeros(shape)).shape == shape


def test_resnet18_has_the_parameter_names_of_torchvision():
    assert set(build(Model(encoder="resnet18")).encoder.state_dict()) == _torchvision_keys()


def test_grey_values_are_brought_to_the_range_that_networks_like():
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-2.0, 2.0]


def test_pretrained_without_network_is_told_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"pretrained: the weights cannot be had .*no route.*set pretrained: false"):
        build(Model(encoder="resnet18", pretrained=True))


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(print, 2)], ids=["empty", "text", "code"])
def test_damaged_published_weights_are_told_and_no_code_in_them_is_run(monkeypatch, tmp_path, content):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(content)
    with pytest.raises(ModelError, match="the weights cannot be had"):
        build(Model(encoder="resnet18", pretrained=True))


def test_published_weights_are_taken_with_three_colours_summed_into_grey(monkeypatch):
    torch.manual_seed(1)
    published = {key: value + 0.5 for key, value in build(Model(encoder="resnet18")).encoder.state_dict().items()}
    colours = torch.rand(64, 3, 7, 7)
    published |= {"conv1.weight": colours, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: dict(published))
    loaded = build(Model(encoder="resnet18", pretrained=True)).encoder.state_dict()
    assert torch.equal(loaded["conv1.weight"], colours.sum(1, keepdim=True))
    assert torch.equal(loaded["layer4.1.bn2.weight"], published["layer4.1.bn2.weight"])


def test_a_saved_model_loads_with_the_same_weights_and_facts(tmp_path):
    states = [build(TINY).state_dict() for _ in range(2)]
    facts = {"folds": FOLDS, "resolution": 0.25, "settings": TINY, "metrics": {"validation_iou": 0.5}}
    save_model(tmp_path / "model.pth", states=states, **facts)
    model = load_model(tmp_path / "model.pth")
    assert {name: getattr(model, name) for name in facts} == facts
    for state, member in zip(states, model.members, strict=True):
        assert not member.training
        assert all(torch.equal(state[key], value) for key, value in member.state_dict().items())


def test_a_model_that_was_pretrained_loads_offline(tmp_path):
    learnt = Model(encoder="resnet18")
    facts = {"folds": FOLDS, "resolution": 0.5, "metrics": {}}
    asked = learnt.model_copy(update={"pretrained": True})
    save_model(tmp_path / "model.pth", states=[build(learnt).state_dict()], settings=asked, **facts)
    assert len(load_model(tmp_path / "model.pth").members) == 1


def test_no_model_says_to_train_first(tmp_path):
    with pytest.raises(ModelError, match=r"none\.pth: there is no model; run train first"):
        load_model(tmp_path / "none.pth")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "code"])
def test_a_damaged_model_is_a_sentence(tmp_path, damage):
    path = tmp_path / "model.pth"
    save_model(path, states=[build(TINY).state_dict()], folds=FOLDS, resolution=0.5, settings=TINY, metrics={})
    good = path.read_bytes()
    weights = good.index(build(TINY).state_dict()["decoder.0.1.weight"].numpy().tobytes())
    flipped = good[:weights] + bytes([good[weights] ^ 64]) + good[weights + 1 :]
    path.write_bytes(
        {"cut": good[:-100], "empty": b"", "text": b"hello", "flipped": flipped, "code": pickle.dumps(print)}[damage]
    )
    with pytest.raises(ModelError, match=r"model\.pth: is (no model|damaged).*; run train first"):
        load_model(path)


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, [1, 2], TINY.model_dump()], ids=str)
def test_a_foreign_file_of_torch_is_a_sentence(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"is no model of historymap; run train first"):
        load_model(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "change",
    [{"states": [{}]}, {"states": [3]}, {"settings": {"widths": "no"}}, {"folds": {}}, {"metrics": None, "states": 1}],
    ids=str,
)
def test_a_model_of_another_version_is_a_sentence(tmp_path, change):
    path = tmp_path / "model.pth"
    save_model(path, states=[build(TINY).state_dict()], folds=FOLDS, resolution=0.5, settings=TINY, metrics={})
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ModelError, match=r"model\.pth: is a model of another version; run train again$"):
        load_model(path)


def test_ignored_pixels_have_no_gradient():
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    labels = torch.from_numpy(np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (2, 1, 8, 8)))
    masked_loss(logits, labels).backward()
    assert (logits.grad[labels == 255] == 0).all()
    assert (logits.grad[labels != 255] != 0).all()


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, labels = torch.randn(1, 1, 4, 4), torch.randint(0, 2, (1, 1, 4, 4), dtype=torch.uint8)
    labels[0, 0, 0] = 255
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, :, 1:], labels[:, :, 1:].float())
    assert float(masked_loss(logits, labels)) == pytest.approx(float(expected))


def test_without_any_label_the_loss_is_zero_and_so_is_its_gradient():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = masked_loss(logits, torch.full((1, 1, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_the_measure_is_the_best_iou_over_all_thresholds(seed, count):
    rng = np.random.default_rng(seed)
    probability, labels = rng.random(count).astype(np.float32), rng.choice(np.array([0, 1, 255], np.uint8), count)
    measure = BestIou()
    measure.add(probability, labels)
    known, wanted = labels != 255, labels == 1
    ious = []
    for threshold in np.arange(256) / 256:
        said = (probability >= threshold) & known
        ious.append((said & wanted).sum() / max((said | wanted).sum(), 1))
    iou, threshold = measure.value()
    assert iou == pytest.approx(max(ious))
    assert ious[round(threshold * 256)] == pytest.approx(max(ious))


def test_without_buildings_the_measure_is_zero():
    measure = BestIou()
    measure.add(np.array([0.0, 1.0]), np.array([0, 255]))
    assert measure.value() == (0.0, 0.5)


def test_the_network_can_be_traced_without_a_decision_in_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        traced = torch.jit.trace(build(TINY).eval(), torch.zeros(1, 1, 32, 32))
    assert traced(torch.zeros(1, 1, 64, 96)).shape == (1, 1, 64, 96)
