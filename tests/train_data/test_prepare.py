"""The data pipeline over folders of GLBs: layout, resumption, what the files hold."""

import csv
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from PIL import Image

from gap3d_app.geometry.cameras import project
from gap3d_app.models.checkpoint import build_model, save_model
from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD
from gap3d_app.posed_views import read_cameras
from train.data import prepare
from train.data.layout import load_arrays, load_voxels, read_assets, save_voxels, share
from train.data.procedural.dataset import write_dataset
from train.data.steps import Context

NETWORKS = {
    "image_encoder": ("ImageEncoder", dict(
        image_size=56, patch_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    )),
    "structure_encoder": ("SparseStructureEncoder", dict(
        latent_channels=8, channels=[4, 8, 8], num_res_blocks=1, num_res_blocks_middle=1,
    )),
    "slat_encoder": ("SLatEncoder", dict(
        resolution=32, in_channels=206, model_channels=32, latent_channels=8, num_blocks=1, num_heads=2, mlp_ratio=2,
        attn_mode="swin", window_size=8,
    )),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    folder.mkdir()
    for role, (name, args) in NETWORKS.items():
        save_model(build_model(name, args), folder / role)
    return folder


@pytest.fixture(scope="module")
def prepared(weights, tmp_path_factory) -> tuple[Path, Path]:
    """(GLBs, output): two procedural assets and one file that is no GLB, through all steps."""
    glbs, out = tmp_path_factory.mktemp("glbs"), tmp_path_factory.mktemp("prepared")
    write_dataset(glbs, 2, seed=3, progress=False)
    with (glbs / "metadata.csv").open("a") as file:
        file.write("f" * 64 + ",broken,,,raw/broken.glb\n")
    (glbs / "raw" / "broken.glb").write_bytes(b"glTF, or so it says")
    assert command(glbs, out, weights) == 0
    return glbs, out


def command(glbs: Path, out: Path, weights: Path, *more: str) -> int:
    sizes = ["--views", "3", "--size", "96", "--device", "cpu"]
    return prepare.main(["--glbs", str(glbs), "--out", str(out), "--encoder", str(weights), *sizes, *more])


def table(path: Path) -> dict[str, dict]:
    with path.open(newline="") as file:
        return {row["sha256"]: row for row in csv.DictReader(file)}


def test_layout_and_metadata(prepared):
    glbs, out = prepared
    rows = table(out / "metadata.csv")
    assert len(rows) == 3
    columns = list(rows["f" * 64])
    assert columns[:5] == ["sha256", "file_identifier", "aesthetic_score", "captions", "local_path"]
    for asset in read_assets(glbs)[:2]:
        row = rows[asset.sha256]
        assert json.loads(row["captions"]) == list(asset.captions) and row["category"] == asset.row["category"]
        done = ("cond_rendered", "voxelized", "feature_tiny", "ss_latent_tiny", "latent_tiny")
        assert [row[key] for key in done] == ["True"] * 5
        frames = json.loads((out / "renders_cond" / asset.sha256 / "transforms.json").read_text())["frames"]
        assert [f["file_path"] for f in frames] == ["000.png", "001.png", "002.png"]
        picture = Image.open(out / "renders_cond" / asset.sha256 / "000.png")
        assert picture.mode == "RGBA" and picture.size == (96, 96)
        coords, resolution = load_voxels(out / "voxels" / f"{asset.sha256}.ply")
        assert resolution == 32 and len(coords) == int(row["num_voxels"]) > 50
        features = load_arrays(out / "features" / "tiny" / f"{asset.sha256}.npz")
        assert features["patchtokens"].dtype == np.float16 and features["patchtokens"].shape == (len(coords), 16)
        assert features["indices"].dtype == np.uint8 and np.array_equal(features["indices"], coords)
        assert load_arrays(out / "ss_latents" / "tiny" / f"{asset.sha256}.npz")["mean"].shape == (8, 8, 8, 8)
        latent = load_arrays(out / "latents" / "tiny" / f"{asset.sha256}.npz")
        assert latent["feats"].dtype == np.float32 and latent["feats"].shape == (len(coords), 8)
        assert np.array_equal(latent["coords"], coords)
    broken = rows["f" * 64]
    assert broken["cond_rendered"] == "" and not (out / "renders_cond" / ("f" * 64)).exists()
    assert {p.name.split("_", 1)[1] for p in (out / "merged_records").iterdir()} >= {"render_0.csv", "latent_0.csv"}
    assert not list(out.rglob("*.part")) and not list(out.glob("*_0.csv"))


def test_cameras_find_the_voxels_in_the_pictures(prepared):
    """Voxel centres fall on the silhouette: cameras, PLY and pictures agree."""
    glbs, out = prepared
    asset = read_assets(glbs)[0]
    folder = out / "renders_cond" / asset.sha256
    coords, _ = load_voxels(out / "voxels" / f"{asset.sha256}.ply")
    uv, _ = project(torch.from_numpy((coords + 0.5) / 32 - 0.5).float(), *read_cameras(folder / "transforms.json"))
    assert ((uv > 0) & (uv < 1)).all()  # the whole cube fits every view
    for number, points in enumerate(uv):
        alpha = np.array(Image.open(folder / f"{number:03d}.png"))[..., 3]
        near = np.array(Image.fromarray(alpha).resize((24, 24), Image.Resampling.BOX)) > 0
        x, y = (points * 24).long().T
        assert near[y, x].mean() > 0.95


def test_skips_what_exists_and_makes_what_is_missing(prepared, weights, capsys):
    glbs, out = prepared
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".png", ".npz", ".ply")}
    lost = [next(p for p in files if p.parent.parent.name == kind) for kind in ("latents", "features")]
    lost_content = [load_arrays(p) for p in lost]
    for path in lost:
        path.unlink()
    shutil.rmtree(next((out / "renders_cond").iterdir()))
    capsys.readouterr()
    assert command(glbs, out, weights) == 0
    assert "raw/broken.glb" in capsys.readouterr().err
    again = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".png", ".npz", ".ply")}
    assert set(again) == set(files)
    changed = {p for p in files if again[p] != files[p]}
    assert {p.parent.parent.name for p in changed} == {"latents", "features", "renders_cond"}
    for path, content in zip(lost, lost_content, strict=True):
        for key, value in load_arrays(path).items():
            np.testing.assert_array_equal(value, content[key])
    assert table(out / "metadata.csv")[lost[0].stem]["latent_tiny"] == "True"


def test_processes_share_the_assets(prepared, weights, tmp_path):
    glbs, _ = prepared
    for rank in (0, 1):
        assert command(glbs, tmp_path, weights, "--steps", "voxelize", "--rank", str(rank), "--world_size", "2") == 0
    assert not (tmp_path / "metadata.csv").exists() and (tmp_path / "voxelize_1.csv").exists()
    assert command(glbs, tmp_path, weights, "--steps", "metadata") == 0
    assert [row["voxelized"] for row in table(tmp_path / "metadata.csv").values()] == ["True", "True", ""]
    assert sum((share(list(range(7)), rank, 3) for rank in range(3)), []) == list(range(7))


class ColourPatches(torch.nn.Module):
    """An image encoder whose patch features are the patches' mean colours."""

    config = SimpleNamespace(image_size=224)
    grid_size = 16

    def prenorm(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        patches = F.avg_pool2d(images * std + mean, 14).flatten(2).mT
        return torch.cat([torch.zeros(len(images), 5, 3), patches], dim=1)  # class and registers are not projected


def test_feature_of_a_known_pattern(weights, tmp_path):
    """A box, red on its left half and blue on its right: every voxel gets the colour of its own half."""
    box = trimesh.creation.box((0.9, 0.5, 0.5)).subdivide().subdivide()
    red = box.triangles_center[:, 0] < 0
    box.visual.face_colors = np.where(red[:, None], (255, 0, 0, 255), (0, 0, 255, 255)).astype(np.uint8)
    glbs = tmp_path / "glbs"
    glbs.mkdir()
    box.export(glbs / "box.glb")
    (glbs / "metadata.csv").write_text("file,caption\nbox.glb,a box\n")
    ctx = Context(tmp_path / "out", weights, torch.device("cpu"), views=8, size=224)
    ctx.image_encoder = ColourPatches()
    assert prepare.prepare(glbs, ctx, ["render", "voxelize", "feature"]) == {}
    (asset,) = read_assets(glbs)
    values = load_arrays(ctx.array("features", asset.sha256))
    colors, x = values["patchtokens"].astype(np.float64), values["indices"][:, 0]
    left, right = colors[x < 12], colors[x > 19]
    assert (left[:, 0] > left[:, 2]).all() and (right[:, 2] > right[:, 0]).all()
    assert left[:, 0].mean() > 4 * left[:, 2].mean() and right[:, 2].mean() > 4 * right[:, 0].mean()
    assert colors[:, [0, 2]].sum(1).min() > 0.1 and colors[:, 1].max() < 0.01  # all seen, nothing green


def test_voxel_file_and_bad_input(tmp_path, weights, capsys):
    coords = np.stack(np.unravel_index([0, 31, 1024, 32767], (32, 32, 32)), 1)
    save_voxels(tmp_path / "v.ply", coords, 32)
    points = trimesh.load(tmp_path / "v.ply").vertices
    np.testing.assert_allclose(points, (coords + 0.5) / 32 - 0.5, atol=1e-6)
    assert np.array_equal(load_voxels(tmp_path / "v.ply")[0], coords)
    assert command(tmp_path, tmp_path / "out", weights) == 2
    assert "metadata.csv" in capsys.readouterr().err
    (tmp_path / "metadata.csv").write_text("file\na.glb\n")
    assert command(tmp_path, tmp_path / "out", tmp_path / "nothing") == 2
    assert command(tmp_path, tmp_path / "out", weights, "--rank", "3") == 2


def test_real_assets(shared_dir, weights, tmp_path):
    glbs = shared_dir / "data" / "real3d"
    if not (glbs / "metadata.csv").exists():
        pytest.skip("the shared folder has no real assets")
    assert command(glbs, tmp_path, weights, "--count", "3") == 0
    rows = list(table(tmp_path / "metadata.csv").values())
    assert len(rows) == 3
    for row in rows:
        assert row["latent_tiny"] == "True" and len(json.loads(row["captions"])) >= 2
        extrinsics, intrinsics = read_cameras(tmp_path / "renders_cond" / row["sha256"] / "transforms.json")
        distance = extrinsics[1:, 2, 3]
        half = torch.atan(0.5 / intrinsics[1:, 0, 0])
        torch.testing.assert_close(distance, math.sqrt(3) / 2 / torch.sin(half))  # the circumsphere fits
