"""Packed chunks: what comes out is what was measured, whatever interrupts the packing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from train.data import pack
from train.data.fields import surface_fields
from train.data.packed import PackedAssets
from train.data.procedural.dataset import write_dataset
from train.data.procedural.spec import AssetSpec, build, sample_spec
from train.data.procedural.split import is_held_out

SIZES = ["--count", "1", "--edits", "1", "--views", "2", "--workers", "1", "--seed", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    assert pack.main(["--out", str(out), *SIZES]) == 0
    return out


def test_round_trip_of_the_surface(folder):
    data = PackedAssets(folder, "cpu", views=2, geometry=True, surface=True)
    assert len(data) == 3 and [len(c) > 2 for c in data.captions] == [True] * 3
    fields = surface_fields(build(sample_spec(5, 0)))
    voxels = data.voxels(torch.tensor([0]))
    assert torch.equal(voxels.coords[:, 1:].long(), fields.coords.long())
    expected = (fields.sdf.float() * 2).clamp(-1, 1)  # the packed unit is half a voxel
    assert (voxels.sdf - expected).abs().max() <= 1 / 127 + 1e-4
    corners = fields.colors.view(-1, 5, 5, 5, 3)[:, ::2, ::2, ::2].reshape(-1, 27, 3)
    assert torch.equal((voxels.colors * 255).round().to(torch.uint8), corners)
    grid = data.occupancy(torch.tensor([0]))
    assert grid.sum() == len(fields) and grid[0, 0][tuple(fields.coords.long().T)].all()


def test_labels_views_and_pairs(folder):
    data = PackedAssets(folder, "cpu", views=2, geometry=True)
    for i, spec in enumerate(data.specs):
        assert data.categories[data.category[i]] == spec["category"]
        assert data.color_names[data.color[i]] == spec["color"]
        assert data.finishes[data.finish[i]] == spec["finish"]
    assert data.views.shape == (3, 2, 224, 224, 3) and data.geometry.shape == (3, 2, 32, 32, 7)
    assert data.images(torch.tensor([1]), 0).amax() > 0.2
    pair, *back = data.pairs
    assert (pair["source"], pair["target"]) == (1, 2) and pair["instruction"]
    reversible = pair["changed"]["attribute"] not in ("size", "style")
    assert [(p["source"], p["target"]) for p in back] == [(2, 1)] * reversible
    assert all(p["changed"]["to"] == pair["changed"]["from"] and p["instruction"] for p in back)


def test_told_edits_start_from_their_asset_and_are_never_held_out(folder, tmp_path):
    data = PackedAssets(folder, "cpu")
    assert [len(told) for told in data.told] == [pack.TOLD] * 3
    for spec, told in zip(data.specs, data.told, strict=True):
        for instruction, target in told:
            changed = [k for k in spec if spec[k] != target[k]]
            assert instruction and len(changed) == 1 and not is_held_out(AssetSpec.from_dict(target))
    assert pack.main(["--out", str(tmp_path), "--split", "test", *SIZES]) == 0
    test = PackedAssets(tmp_path, "cpu")
    assert test.told == [[]] * 3 and len(test.pairs) == 1


def test_goes_on_where_it_stopped_and_repeats(folder, tmp_path):
    files = sorted(folder.glob("chunk-*.safetensors"))
    before = {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}
    files[1].unlink()
    (folder / "chunk-00001.part").write_bytes(b"cut")  # as an interrupted run leaves it
    assert pack.main(["--out", str(folder), *SIZES]) == 0
    assert files[0].stat().st_mtime_ns == before[files[0]][1]  # left alone
    assert files[1].read_bytes() == before[files[1]][0]  # made again, the same


@pytest.mark.parametrize("flag", ["--count", "--edits", "--views", "--seed"])
def test_other_numbers_than_the_folder_was_made_with_are_refused(folder, capsys, flag):
    """They would say what other chunks hold than those that are there."""
    before = {file: file.read_bytes() for file in folder.iterdir()}
    sizes = [*SIZES]
    sizes[sizes.index(flag) + 1] = "3"
    assert pack.main(["--out", str(folder), *sizes]) == 2
    assert f"made with {flag} " in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_captions_that_are_no_list(tmp_path, capsys):
    (tmp_path / "metadata.csv").write_text('local_path,captions\na.glb,"[sic] a chair"\n')
    assert pack.main(["--out", str(tmp_path / "out"), "--glbs", str(tmp_path)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_folder_of_glbs_joins(folder, tmp_path, capsys):
    source = tmp_path / "glbs"
    (row,) = write_dataset(source, 1, seed=9, progress=False)
    table = (source / "metadata.csv").read_text().splitlines()
    columns = table[0].split(",")
    broken, unknown = dict.fromkeys(columns, ""), dict.fromkeys(columns, "")
    broken |= {"sha256": "0" * 64, "local_path": "raw/broken.glb"}
    unknown |= {"local_path": row["local_path"], "captions": '["a thing"]', "category": "gadget"}
    table += [",".join(broken.values()), ",".join(v.replace('"', '""').join('""') for v in unknown.values())]
    (source / "metadata.csv").write_text("\n".join(table) + "\n")
    (source / "raw" / "broken.glb").write_bytes(b"no glb")

    out = tmp_path / "packed"
    assert pack.main(["--out", str(out), *SIZES[:2], "--views", "2", "--workers", "1"]) == 0
    assert pack.main(["--out", str(out), "--glbs", str(source), "--views", "2", "--workers", "1"]) == 0
    assert "raw/broken.glb" in capsys.readouterr().err
    data = PackedAssets(out, "cpu", views=2, surface=True)
    assert len(data) == 3 and data.pairs == []
    assert data.captions[1] == json.loads(row["captions"])
    assert data.categories[data.category[1]] == row["category"]
    assert data.captions[2] == ["a thing"] and data.category[2] == data.color[2] == data.finish[2] == -1
    # the same asset from its file as from its description, up to the file's own precision and size
    made = load_file(out / "chunk-glbs-00000.safetensors")
    assert abs(int(made["counts"][0]) - int(made["counts"][1])) == 0
    assert pack.main(["--out", str(out), "--glbs", str(source), "--views", "3", "--workers", "1"]) == 2


def test_folder_without_metadata(tmp_path, capsys):
    assert pack.main(["--out", str(tmp_path / "out"), "--glbs", str(tmp_path)]) == 2
    assert "metadata.csv" in capsys.readouterr().err


@pytest.mark.parametrize("gpus, count, expected", [(0, 8, 7), (1, 8, 7), (1, 64, 12), (2, 64, 24), (1, 1, 1)])
def test_workers_fit_the_machine(monkeypatch, gpus, count, expected):
    """A worker needs up to 6.5 GiB of its GPU; cards of 80 GiB here."""
    card = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(pack, "cores", lambda: count)
    assert pack.default_workers() == expected
