"""Gaussian values and their PLY files."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from gap3d_app.errors import InputError
from gap3d_app.geometry import ply
from gap3d_app.values import Gaussians

FIELDS = ("xyz", "features_dc", "scaling", "rotation", "opacity")


def some_gaussians(count=50):
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(count, *shape, generator=random)

    return Gaussians(torch.sigmoid(draw(3)), draw(1, 3), draw(3), draw(4), draw(1))


def test_raw_zero_means_the_documented_values():
    g = Gaussians(torch.full((1, 3), 0.5), *(torch.zeros(1, *s) for s in ((1, 3), (3,), (4,), (1,))))
    assert torch.allclose(g.xyz, torch.zeros(1, 3))
    assert torch.allclose(g.scaling, torch.full((1, 3), math.hypot(4e-3, 9e-4)))
    assert g.opacity.item() == pytest.approx(0.1, abs=1e-6)
    assert g.rotation.tolist() == [[1, 0, 0, 0]]
    assert torch.allclose(g.colors, torch.full((1, 3), 0.5))


def test_opacities_at_the_ends_keep_their_logit():
    raw = torch.tensor([-80.0, -20.0, -14.0, 0.0, 14.0, 90.0])
    g = Gaussians(*(values.expand(6, *values.shape) for values in (torch.zeros(3), torch.zeros(1, 3), torch.zeros(3),
                  torch.ones(4))), raw[:, None])  # fmt: skip
    column = ply.gaussians_to_table(g)[:, ply.COLUMNS.index("opacity")]
    bias = math.log(0.1 / 0.9)
    assert torch.allclose(column[:4], raw[:4] + bias, atol=1e-3) and column.isfinite().all()
    assert column[4] == pytest.approx(14 + bias, abs=0.1) and column[5] > 15


@pytest.mark.parametrize("transform", [None, ply.Y_DOWN])
def test_round_trip(tmp_path, transform):
    g = some_gaussians()
    ply.save_gaussians(g, tmp_path / "g.ply", transform)
    back = ply.load_gaussians(tmp_path / "g.ply", transform)
    for name in ("xyz", "scaling", "opacity", "features", "covariance"):
        assert torch.allclose(getattr(back, name), getattr(g, name), atol=1e-5), name
    assert (tmp_path / "g.ply").read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\n")


@pytest.mark.parametrize("threshold, kept", [(0.0, 50), (0.2, None), (1.0, 0)])
def test_gaussians_that_are_hardly_there_may_be_left_out(tmp_path, threshold, kept):
    g = some_gaussians()
    seen = g.opacity[:, 0] >= threshold
    ply.save_gaussians(g, tmp_path / "g.ply", min_opacity=threshold)
    back = ply.load_gaussians(tmp_path / "g.ply")
    assert len(back) == (int(seen.sum()) if kept is None else kept)
    assert (threshold != 0.2) or 0 < len(back) < 50
    assert torch.allclose(back.xyz, g.xyz[seen], atol=1e-5) and (back.opacity >= threshold - 1e-5).all()


def test_default_transform_turns_up_into_minus_y():
    g = some_gaussians(3)
    table = ply.gaussians_to_table(g)
    x, y, z = g.xyz.unbind(1)
    assert torch.allclose(table[:, :3], torch.stack([x, -z, y], 1))
    turned = Gaussians(g.raw_xyz, g.raw_features_dc, g.raw_scaling, table[:, 13:] - ply._IDENTITY, g.raw_opacity)
    assert torch.allclose(turned.rotation_matrix, torch.tensor(ply.Y_DOWN) @ g.rotation_matrix, atol=1e-5)


def test_foreign_and_short_files_are_named(tmp_path):
    path = tmp_path / "g.ply"
    path.write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(InputError, match="17 columns"):
        ply.load_gaussians(path)
    ply.save_gaussians(some_gaussians(), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cut short"):
        ply.load_gaussians(path)


def test_golden(shared_dir):
    with safe_open(shared_dir / "conformance/trellis/slat_decoder_gs.safetensors", "pt") as f:
        data = {k.removeprefix("outputs."): f.get_tensor(k) for k in f.keys()}
        tolerance = json.loads(f.metadata()["tolerance_max_abs"])
    for item in "01":
        g = Gaussians(*[data[f"{item}.raw_{name}"] for name in FIELDS])
        for name in ("xyz", "features", "scaling", "rotation", "opacity", "covariance"):
            key = f"{item}.{name}"
            assert (getattr(g, name) - data[key]).abs().max() <= tolerance[key], key
        if item == "0":
            table, expected = ply.gaussians_to_table(g), data["0.ply"]
            sign = torch.sign((table[:, 13:] * expected[:, 13:]).sum(1, keepdim=True))
            table[:, 13:] *= sign
            assert (table - expected).abs().max() <= tolerance["0.ply"]
