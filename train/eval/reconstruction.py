"""How well the two autoencoders give back held-out assets, and how often the judge is right on them."""

import torch

from train.data.fields import fields_to_mesh
from train.eval.geometry_metrics import SAMPLES, f_score, voxel_iou
from train.eval.held_out import HeldOutAsset, on_white, pack_voxels
from train.eval.image_metrics import albedo_renders, render_psnr
from train.eval.report import Figure, mean, most_missed
from train.eval.session import Session

PSNR_VIEWS, PSNR_SIZE = 4, 224


def structure_vae(s: Session) -> list[Figure]:
    """Occupancy through structure encoder and decoder."""
    scores = []
    numbers = range(s.counts.assets)
    size = s.pipe.batches["structure"]
    for start in s.bar(range(0, len(numbers), size), "structure VAE"):
        truth = torch.stack([s.data.asset(i).occupancy for i in numbers[start : start + size]])
        for made, known in zip(s.pipe.reconstruct_structure(truth), truth, strict=True):
            scores.append(voxel_iou(made, known))
    definition = (
        f"occupancy at {s.pipe.resolution}^3 of the surface fields -> structure encoder (posterior mean) -> decoder, "
        "logits over 0; intersection over union, mean over assets"
    )
    details = {"lowest": min(scores), "share_over_0.95": mean([float(v > 0.95) for v in scores])}
    return [Figure("structure_vae_iou", "structure VAE IoU", mean(scores), 0.97, len(scores), "", definition, details)]


def slat_vae(s: Session) -> list[Figure]:
    """Surface fields through SLAT encoder and mesh decoder; the judge on the truth and on what comes back."""
    rows: list[dict] = []
    size = s.pipe.batches["mesh"]
    for start in s.bar(range(0, s.counts.assets, size), "SLAT VAE"):
        assets = [s.data.asset(i) for i in range(start, min(start + size, s.counts.assets))]
        fields = [a.fields() for a in assets]
        voxels = pack_voxels(fields)
        meshes = s.pipe.reconstruct_surface(voxels.features(), voxels.coords)
        for number, (asset, field, mesh) in enumerate(zip(assets, fields, meshes, strict=True), start):
            rows.append(_compare(s, number, asset, fields_to_mesh(field), mesh))
    s.samples["slat_vae"] = rows
    count = len(rows)
    value = {k: mean([r[k] for r in rows]) for k in rows[0] if isinstance(rows[0][k], float)}
    psnr_definition = (
        f"unlit renders of the decoded mesh against the true surface at the decoders' resolution, {PSNR_VIEWS} views, "
        f"{PSNR_SIZE} px, on black; the squared error counts inside the union of the two silhouettes only; mean over "
        "assets. whole_image counts all pixels; against_source renders the original triangles, whose outline lies "
        "0.75 fine cells further in than the surface that the encoder is given"
    )
    psnr_details = {
        "whole_image": value["psnr_whole"],
        "against_source": value["psnr_source_union"],
        "against_source_whole_image": value["psnr_source_whole"],
        "lowest": min(r["psnr"] for r in rows),
    }
    f_definition = (
        f"{SAMPLES:,} points of each surface against the other one, within 1/64 of the cube's side; true surface: the "
        "one extracted from the asset's surface fields; harmonic mean of precision and recall, mean over assets"
    )
    f_details = {k: value[k] for k in ("precision", "recall")} | {"lowest": min(r["f"] for r in rows)}
    psnr = value["psnr"]
    return [
        Figure("slat_vae_psnr", "SLAT VAE colour PSNR", psnr, 27.0, count, "dB", psnr_definition, psnr_details),
        Figure("slat_vae_f_score", "SLAT VAE F-score", value["f"], 0.95, count, "", f_definition, f_details),
        *_judge_figures(rows),
    ]


def _compare(s: Session, number: int, asset: HeldOutAsset, truth, mesh) -> dict:
    """One reconstruction against its truth."""
    real_views, made_views = s.look(asset.mesh, asset.cameras), s.look(mesh, asset.cameras)
    real, made = s.judge(real_views), s.judge(made_views)
    row: dict = {"asset": number, "category": asset.spec.category, "color": asset.spec.color}
    for key in ("category", "color", "finish"):
        row[f"real_{key}_ok"] = float(real[key] == getattr(asset.spec, key))
        row[f"made_{key}_ok"] = float(made[key] == getattr(asset.spec, key))
    known = albedo_renders(truth, PSNR_VIEWS, PSNR_SIZE)
    source = albedo_renders(asset.mesh, PSNR_VIEWS, PSNR_SIZE)
    pictures = torch.zeros_like(known) if mesh is None else albedo_renders(mesh, PSNR_VIEWS, PSNR_SIZE)
    against_truth, against_source = render_psnr(pictures, known), render_psnr(pictures, source)
    row |= {"psnr": against_truth["union"], "psnr_whole": against_truth["whole"]}
    row |= {"psnr_source_union": against_source["union"], "psnr_source_whole": against_source["whole"]}
    row |= {"f": 0.0, "precision": 0.0, "recall": 0.0} if mesh is None else f_score(mesh, truth)
    if s.has_room("slat_vae"):
        left = f"{asset.spec.color} {asset.spec.category}"
        right = f"decoded: {row['psnr']:.1f} dB, F {row['f']:.3f}"
        picture = None if made_views is None else on_white(made_views)
        s.tile("slat_vae", [on_white(real_views), picture], [left, right])
    return row


def _judge_figures(rows: list[dict]) -> list[Figure]:
    """The judge's own accuracy, so that its verdicts can be read."""
    found = []
    for name, label in (("real", "judge on real held-out assets"), ("made", "judge on SLAT VAE reconstructions")):
        right = {k: mean([r[f"{name}_{k}_ok"] for r in rows]) for k in ("category", "color", "finish")}
        definition = (
            "the probe names the category from 5 renders (canonical and random views) of "
            + ("the asset itself" if name == "real" else "the asset decoded from its own latent")
        )
        details = {"color": right["color"], "finish": right["finish"]}
        details["categories_missed"] = most_missed(rows, "category", f"{name}_category_ok")
        details["colors_missed"] = most_missed(rows, "color", f"{name}_color_ok")
        target = 0.95 if name == "real" else None
        found.append(Figure(f"judge_{name}", label, right["category"], target, len(rows), "%", definition, details))
    return found
