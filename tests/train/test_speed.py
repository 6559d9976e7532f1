"""MFU is a share of the data sheet's rate, and of nothing else."""

import pytest
import torch

from mmhicra.train.update.speed import update_speed


@pytest.mark.parametrize(
    ("gpu", "precision", "share"),
    [
        ("NVIDIA H200", "bf16", 3 / 989),
        ("NVIDIA A100-SXM4-80GB", "bf16", 3 / 312),
        ("NVIDIA H200", "fp32", None),
        ("an unknown GPU", "bf16", None),
        (None, "bf16", None),
    ],
)
def test_speed_and_mfu(gpu, precision, share, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    expected = {"speed/update_tflops": 3.0} | ({"speed/update_mfu": pytest.approx(share)} if share else {})
    assert update_speed(2e12, 2.0, precision) == expected
