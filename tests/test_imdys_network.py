from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imdy_plugin.errors import FileFormatError
from imdy_plugin.solvers.imdys import network as nw
from imdy_plugin.solvers.imdys.features import Features
from imdy_plugin.solvers.imdys.landmarks import LANDMARKS
from imdy_plugin.solvers.imdys.prediction import predict, run_network

SMALL = nw.NetworkConfig(width=16, dilations=(1, 2))


@pytest.fixture
def network() -> nw.ImdysNetwork:
    torch.manual_seed(0)
    return nw.ImdysNetwork(SMALL).eval()


def inputs(frames: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, len(LANDMARKS), nw.CHANNELS, generator=generator), torch.rand(1, frames, len(LANDMARKS), generator=generator) > 0.3


def features(seed: int = 0) -> Features:
    values, present = inputs(seed=seed)
    frames = values.shape[1]
    return Features(
        time=np.arange(frames) / 100.0,
        values=values[0].numpy(),
        present=present[0].numpy(),
        usable=np.arange(frames) < 50,
        rotation=np.repeat(np.eye(3)[None], frames, axis=0),
        foot_point=np.zeros((frames, 2, 3)),
        floor=0.02,
        mean_velocity=np.zeros((frames, 3)),
        pelvis_acceleration=np.zeros((frames, 3)),
        landmarks={},
    )


def test_every_head_answers_every_frame(network: nw.ImdysNetwork) -> None:
    outputs = network(*inputs())
    assert {name: output.shape for name, output in outputs.items()} == {name: (1, 60, size) for name, size in nw.HEADS.items()}


def test_a_missing_landmark_says_nothing(network: nw.ImdysNetwork) -> None:
    values, present = inputs()
    garbage = torch.where(present[..., None], values, torch.full_like(values, 1e6))
    for name, output in network(garbage, present).items():
        torch.testing.assert_close(output, network(values, present)[name])
    present_all = torch.ones_like(present)
    assert (network(values, present_all)["force"] - network(values, present)["force"]).abs().max() > 1e-3


def test_at_twice_the_rate_every_other_frame_is_answered_alike(network: nw.ImdysNetwork) -> None:
    values, present = inputs()
    fine, coarse = network(values, present, 100.0), network(values[:, ::2], present[:, ::2], 50.0)
    torch.testing.assert_close(fine["force"][:, ::2], coarse["force"])


def test_mirroring_twice_changes_nothing() -> None:
    values, present = inputs()
    twice = nw.mirror_inputs(*nw.mirror_inputs(values, present))
    torch.testing.assert_close(twice[0], values)
    for name, size in nw.HEADS.items():
        output = torch.randn(4, size)
        torch.testing.assert_close(nw.mirror_outputs(name, nw.mirror_outputs(name, output)), output)


def test_the_mirror_of_a_torque_swaps_legs_and_turns_the_spine() -> None:
    mirrored = nw.mirror_outputs("torque", torch.arange(1.0, 16.0)).tolist()
    by_name = dict(zip(nw.TORQUES, mirrored, strict=True))
    assert by_name["knee_angle_r"] == 1.0 + nw.TORQUES.index("knee_angle_l")
    assert by_name["lumbar_extension"] == 13.0
    assert by_name["lumbar_bending"] == -14.0


def test_mirror_average_is_mirror_equivariant_and_without_it_not(network: nw.ImdysNetwork) -> None:
    plain = features()
    values, present = nw.mirror_inputs(torch.from_numpy(plain.values), torch.from_numpy(plain.present))
    mirrored = Features(**{**vars(plain), "values": values.numpy(), "present": present.numpy()})
    worst = {}
    for average in (True, False):
        a, b = (run_network(network, f, mirror_average=average) for f in (plain, mirrored))
        worst[average] = max(np.abs(nw.mirror_outputs(n, torch.from_numpy(a[n])).numpy() - b[n]).max() for n in a)
    assert worst[True] < 1e-5 < 1e-3 < worst[False]


def test_forces_are_zero_without_contact_and_unknown_where_nothing_is_seen(network: nw.ImdysNetwork) -> None:
    loads = predict(network, features(), contact_threshold=0.5)
    swing = loads.contact_probability < 0.4
    assert swing.any()
    np.testing.assert_array_equal(loads.force[swing], 0.0)
    assert np.isnan(loads.force[50:]).all()
    assert (np.nan_to_num(loads.force[..., 1]) >= 0.0).all()


def test_weights_are_kept(tmp_path: Path, network: nw.ImdysNetwork) -> None:
    path = tmp_path / "weights.safetensors"
    nw.save_network(network, path, {"people": ["a/b"]})
    again, card = nw.load_network(path)
    assert card == {"people": ["a/b"]}
    assert again.config == SMALL
    torch.testing.assert_close(again(*inputs())["force"], network(*inputs())["force"], atol=1e-2, rtol=0)


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    trap = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trap,))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileFormatError, match="safetensors"):
        nw.load_network(path)
    assert not trap.exists()


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="nowhere"):
        nw.load_network(tmp_path / "nowhere.safetensors")


def test_another_network_is_refused(tmp_path: Path, network: nw.ImdysNetwork) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "something else"})
    with pytest.raises(FileFormatError, match="something else"):
        nw.load_network(path)
    nw.save_network(network, path, {})
    cut = path.read_bytes()[:-100]
    path.write_bytes(cut)
    with pytest.raises(FileFormatError, match="safetensors"):
        nw.load_network(path)
