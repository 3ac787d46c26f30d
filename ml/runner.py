"""A network as a fast function from grey windows to probabilities, by torch or by OpenVINO.

Measured on 2 cores with AVX-512: the compact network runs at 12 Mpx/s in float32 and at 36 with 8-bit weights and
activations (post-training quantisation by NNCF, calibrated on the photo itself), resnet18 at 1.5 and 6.8, which is
about what the processor can multiply. torch called eagerly in float32 does 5.7 and 1.0. torch stays for GPUs and where
OpenVINO is not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from historymap_lib.errors import ModelError
from historymap_lib.probability import FULL
from historymap_lib.settings import DIVISOR
from ml import runtime
from ml.model import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from historymap_lib.settings import Prediction

STREAMS = min(4, os.cpu_count() or 1)
"""Batches that OpenVINO works on at once, each on its share of the cores: two threads that wait for each other after
every layer do less (measured: 30 and 37 Mpx/s on 2 cores). More than four would only cost memory."""
TRACED = 64
"""Pixels along the windows that the network is traced on; which does not matter, but large ones take seconds."""
PAYS_OFF = 20_000_000
"""Pixels a member from which 8 bits pay. Measured on 2 cores: they cost 1.5 s for widths and 6 s for resnet18, and save
0.06 s and 0.5 s a million pixels."""


class Runner(Protocol):
    """Maps grey windows (n, height, width; uint8) to probabilities in the same shape (uint8, 0 to 254).

    May be called by several threads at once.
    """

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return the probabilities."""
        ...


def make_runner(network: nn.Module, settings: Prediction, samples: np.ndarray, pixels: int = 0) -> Runner:
    """Return the fastest runner that the settings and the machine allow.

    Args:
        network: gives logits; used in eval mode.
        settings: runtime and precision.
        samples: some windows of the photo (n, height, width; uint8), all of the size to be predicted: they shape the
            compiled network and calibrate its 8-bit form.
        pixels: about how many there are to predict; `precision: auto` means 8 bits only where there are many.

    Raises:
        ModelError: OpenVINO is asked for and not installed, or 8 bits are asked of torch.

    """
    where = runtime.device("auto")
    installed = importlib.util.find_spec("openvino") is not None
    if settings.runtime == "openvino" and not installed:
        raise ModelError("prediction.runtime: openvino is not installed; pip install openvino, or set runtime: torch")
    use_openvino = installed and settings.runtime != "torch" and (settings.runtime == "openvino" or where.type == "cpu")
    if use_openvino:
        many = settings.precision == "auto" and pixels >= PAYS_OFF
        return _OpenVino(network, "int8" if many else settings.precision, samples)
    if settings.precision == "int8":
        raise ModelError("prediction.precision: int8 needs OpenVINO; set runtime: openvino, or another precision")
    return _Torch(network, runtime.is_half(settings.precision, where), where)


class _Whole(nn.Module):
    """Everything from grey values to stored probabilities, so that the runtime can fuse it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the stored values."""
        logits = self.network(normalise(windows)[:, None])
        return torch.round(torch.sigmoid(logits.float()[:, 0]) * FULL).to(torch.uint8)


class _Torch:
    def __init__(self, network: nn.Module, half: bool, where: torch.device) -> None:  # noqa: FBT001 - a value, no mode
        self._whole = runtime.place(_Whole(network.eval()), where)
        self._half, self._where = half, where
        self._lock = threading.Lock()  # a call takes all cores, or the GPU, by itself

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        with self._lock, torch.inference_mode(), torch.autocast(self._where.type, torch.bfloat16, enabled=self._half):
            answer: np.ndarray = self._whole(torch.from_numpy(windows).to(self._where)).cpu().numpy()
        return answer


class _OpenVino:
    def __init__(self, network: nn.Module, precision: str, samples: np.ndarray) -> None:
        _, *shape = samples.shape
        if any(side % DIVISOR for side in shape):
            raise ModelError(f"windows of {shape} pixels cannot be predicted; sides must be multiples of {DIVISOR}")
        with _quiet():
            import openvino  # noqa: PLC0415 - only where it is used: it may not be installed

            model = _converted(_Whole(network.eval()), samples[:1, :TRACED, :TRACED])
            model.reshape([-1, *shape])
            if precision == "int8":
                model = _quantised(model, samples)
        # left to itself OpenVINO takes bfloat16 also where it is slower: half as fast for resnet18 without AMX
        half = runtime.is_half("fp32" if precision == "int8" else precision, torch.device("cpu"))
        options = {"NUM_STREAMS": STREAMS, "INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
        self._model = openvino.Core().compile_model(model, "CPU", options)
        self._of_thread = threading.local()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._model.create_infer_request()
        answer: np.ndarray = self._of_thread.request.infer([windows])[0]
        return answer


def _converted(network: nn.Module, window: np.ndarray) -> Any:
    """Return a network as OpenVINO sees it; torch's own check of the trace would cost as much as all the rest."""
    import openvino  # noqa: PLC0415 - only where it is used: it may not be installed

    with torch.no_grad():
        traced = torch.jit.trace(network, torch.from_numpy(window), check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced)


def _quantised(model: Any, samples: np.ndarray) -> Any:
    """Return the 8-bit form of a model, its ranges measured on the samples."""
    import nncf  # noqa: PLC0415 - heavy, and only for this

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset([window[None] for window in samples])
    return nncf.quantize(model, data, subset_size=len(samples))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenVINO and NNCF from greeting, warning about their own inside, and calling home."""
    # both send without asking, unless this package is missing, which is what None says
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces by torch.jit, which torch gives up
        yield
