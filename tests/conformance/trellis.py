"""Checkers of the TRELLIS family, chosen by the `class` that a file's metadata names.

Each checker computes a file's outputs from its inputs, weights and constructor arguments, and returns them by
name. Sizes, seeds and file names are the file's own business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gap3d_app.flow.sampler import FlowSampler, schedule
from gap3d_app.models.checkpoint import assign_state, build_model
from gap3d_app.models.slat_flow import SparseResBlock3d
from gap3d_app.models.structure_flow import occupied_coords
from gap3d_app.nn import embeddings, norms
from gap3d_app.sparse.attention import (
    ModulatedSparseCrossBlock,
    SparseMultiHeadAttention,
    SparseTransformerBlock,
)
from gap3d_app.sparse.conv import SparseConv3d
from gap3d_app.sparse.norms import SparseGroupNorm32
from gap3d_app.sparse.resample import SparseDownsample, SparseSubdivide, SparseUpsample
from gap3d_app.sparse.tensor import SparseTensor
from tests.conformance import surfaces
from tests.conformance.golden import Golden, Row, compare_all
from tests.conformance.key_lists import check_key_lists, is_key_lists


def check(golden: Golden) -> list[Row] | None:
    """Rows of a file, or None if it does not belong to this family."""
    if golden.content is not None:
        return check_key_lists(golden.content) if is_key_lists(golden.content) else None
    if "class" not in golden.meta:
        return None
    title, got = str(golden.meta["class"]), None
    for key, checker in CHECKERS:
        if key in title:
            got = checker(golden)
            break
    if got is None:
        return [Row("all", float("inf"), 0.0, f"no checker for {title!r}")]
    rows = compare_all(golden, got, golden.meta["tolerance_max_abs"])
    return rows or [Row("all", float("inf"), 0.0, "the file has no outputs")]


def args_of(golden: Golden) -> dict[str, Any]:
    """The constructor arguments."""
    return dict(golden.meta["constructor_args"])


def loaded(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The module with the given weights, strictly."""
    module.load_state_dict(weights, strict=True)
    return module.eval()


def model_of(golden: Golden) -> nn.Module:
    """The network that the file describes, with its weights."""
    model = build_model(golden.meta["class"], args_of(golden))
    assign_state(model, golden.weights, golden.name)
    return model.eval()


def sparse_of(values: dict[str, Tensor], feats: str = "feats", coords: str = "coords") -> SparseTensor:
    """The sparse input of a file."""
    return SparseTensor(values[feats], values[coords])


def structure_flow(golden: Golden) -> dict[str, Tensor]:
    i = golden.inputs
    return {"out": model_of(golden)(i["x"], i["t"], i["cond"])}


def structure_encoder(golden: Golden) -> dict[str, Tensor]:
    mean, logvar = model_of(golden).posterior(golden.inputs["x"])
    return {"mean": mean, "logvar": logvar}


def structure_decoder(golden: Golden) -> dict[str, Tensor]:
    logits = model_of(golden)(golden.inputs["z"])
    return {"logits": logits, "coords": occupied_coords(logits)}


def slat_flow(golden: Golden) -> dict[str, Tensor]:
    i = golden.inputs
    return {"feats": model_of(golden)(sparse_of(i), i["t"], i["cond"]).feats}


def slat_encoder(golden: Golden) -> dict[str, Tensor]:
    mean, logvar = model_of(golden).posterior(sparse_of(golden.inputs))
    return {"mean": mean, "logvar": logvar}


def gaussian_decoder(golden: Golden) -> dict[str, Tensor]:
    model = model_of(golden)
    decoded = model(sparse_of(golden.inputs))
    got = {"feats": decoded.feats}
    names = [key.split(".", 1) for key in golden.outputs if "." in key]
    objects = model.to_representation(decoded)
    for index, name in names:
        if name == "ply":
            got[f"{index}.ply"] = surfaces.ply_table(
                objects[int(index)], golden.meta["ply_properties"], golden.outputs[f"{index}.ply"]
            )
        else:
            got[f"{index}.{name}"] = getattr(objects[int(index)], name)
    return got


def radiance_decoder(golden: Golden) -> dict[str, Tensor]:
    model = model_of(golden)
    decoded = model(sparse_of(golden.inputs))
    got = {"feats": decoded.feats}
    for index, field in enumerate(model.to_representation(decoded)):
        names = ("position", "depth", "trivec", "density", "features_dc")
        got.update({f"{index}.{name}": getattr(field, name) for name in names})
    return got


def mesh_decoder(golden: Golden) -> dict[str, Tensor]:
    model = model_of(golden)
    decoded = model(sparse_of(golden.inputs))
    got = {"feats": decoded.feats, "coords": decoded.coords}
    for index in range(decoded.batch_size):
        one = decoded[index]
        expected = golden.part(f"outputs.{index}")
        result = surfaces.extracted(one.coords[:, 1:], one.feats, model.out_resolution, expected)
        got.update({f"{index}.{name}": value for name, value in result.items()})
    return got


def embedders(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    got = {f"ape_{c}": embeddings.position_embedding(i["xyz"], c) for c in args["ape_channels"]}
    for c in args["timestep_dims"]:
        got[f"timestep_sincos_{c}"] = embeddings.timestep_embedding(i["t"], c)
    embedder = loaded(embeddings.TimestepEmbedder(**args["timestep_embedder"]), golden.weights)
    return {**got, "timestep_mlp": embedder(i["t"])}


def norm_layers(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    c, groups, eps = args["channels"], args["groupnorm_groups"], args["groupnorm_eps"]
    rms = norms.MultiHeadRMSNorm(args["rms"]["dim"], args["rms"]["heads"])

    def with_weights(module: nn.Module, prefix: str) -> nn.Module:
        return loaded(module, golden.part(f"weights.{prefix}"))

    sparse_norm = with_weights(SparseGroupNorm32(groups, c, eps), "sgn")
    return {
        "layernorm": with_weights(norms.LayerNorm32(c, True, args["layernorm_eps"]), "ln")(i["tokens"]),
        "layernorm_noaffine_1e5": norms.LayerNorm32(c, eps=1e-5)(i["tokens"]),
        "channel_layernorm": with_weights(
            norms.ChannelLayerNorm32(c, args["channel_layernorm_eps"]), "cln"
        )(i["grid"]),
        "groupnorm": with_weights(norms.GroupNorm32(groups, c, eps), "gn")(i["grid"]),
        "multihead_rmsnorm": with_weights(rms, "rms")(i["heads"]),
        "sparse_groupnorm": sparse_norm(sparse_of(i)).feats,
    }


def sparse_conv(golden: Golden) -> dict[str, Tensor]:
    out = loaded(SparseConv3d(**args_of(golden)), golden.weights)(sparse_of(golden.inputs))
    return {"feats": out.feats, "coords": out.coords}


def down_up(golden: Golden) -> dict[str, Tensor]:
    factor, x = args_of(golden)["factor"], sparse_of(golden.inputs)
    down = SparseDownsample(factor)(x)
    up = SparseUpsample(factor)(down.replace(down.feats * 1.5 + 0.25))
    return {
        "down_feats": down.feats,
        "down_coords": down.coords,
        "parent_index": down.sites.cache["pooled from", factor][1],
        "up_feats": up.feats,
        "up_coords": up.coords,
    }


def subdivide(golden: Golden) -> dict[str, Tensor]:
    out = SparseSubdivide()(sparse_of(golden.inputs))
    return {"feats": out.feats, "coords": out.coords}


def res_block(golden: Golden) -> dict[str, Tensor]:
    out = loaded(SparseResBlock3d(**args_of(golden)), golden.weights)(
        sparse_of(golden.inputs), golden.inputs["emb"]
    )
    return {"feats": out.feats, "coords": out.coords}


def sparse_attention(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    if args.pop("type", "self") == "self":
        args.pop("ctx_channels", None)
    module, context = loaded(SparseMultiHeadAttention(**args), golden.weights), i.get("context")
    if "context_feats" in i:
        context = sparse_of(i, "context_feats", "context_coords")
    return {"feats": module(sparse_of(i), context).feats}


def plain_block(golden: Golden) -> dict[str, Tensor]:
    block = loaded(SparseTransformerBlock(**args_of(golden)), golden.weights)
    return {"feats": block(sparse_of(golden.inputs)).feats}


def modulated_block(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    if args.pop("attn_mode", "full") != "full":
        raise ValueError("modulated blocks attend inside whole batch elements only")
    block = loaded(ModulatedSparseCrossBlock(**args), golden.weights)
    return {"feats": block(sparse_of(i), i["mod"], i["context"]).feats}


def sampler(golden: Golden) -> dict[str, Tensor]:
    w, i = golden.weights, golden.inputs
    got: dict[str, Tensor] = {}
    for case, arguments in golden.meta["cases"].items():
        settings = {**args_of(golden), **arguments}
        cond, uncond = i[settings.pop("cond", "cond")], i.get(settings.pop("neg", "neg_cond"))
        if "mode" in settings:
            settings["multi_cond"] = settings.pop("mode")
        settings.setdefault("cfg_strength", 0.0)
        settings["cfg_interval"] = tuple(settings.get("cfg_interval", (0.0, 1.0)))
        calls: list[Tensor] = []

        def model(x: Tensor, t: Tensor, c: Tensor, calls: list[Tensor] = calls) -> Tensor:
            calls.append(t)
            drive = c.mean(1) @ w["Wc"].T + (t / 1000)[:, None] * w["wt"]
            mixed = torch.einsum("oc,bcxyz->boxyz", w["Wx"], x) + drive[:, :, None, None, None]
            return 1.5 * torch.tanh(mixed) - 0.3 * x

        flow = FlowSampler(**settings)
        events = list(flow.run(model, i["noise"], cond, uncond))
        got[f"{case}.t_seq"] = torch.from_numpy(schedule(settings["steps"], settings["rescale_t"]))
        got[f"{case}.x_t"] = torch.stack([event.state for event in events])
        got[f"{case}.x_0"] = torch.stack([event.x_0 for event in events])
        got[f"{case}.samples"] = events[-1].state
        got[f"{case}.model_t"] = torch.stack(calls)
    return got


def sampler_of(settings: dict[str, Any]) -> FlowSampler:
    """A sampler from the metadata's settings."""
    return FlowSampler(**{**settings, "cfg_interval": tuple(settings["cfg_interval"])})


def structure_pipeline(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    flow, decoder = (
        loaded(build_model(name, args[part]), golden.part(f"weights.{part}"))
        for name, part in (("SparseStructureFlowModel", "flow"), ("SparseStructureDecoder", "decoder"))
    )
    latent = sampler_of(args["sampler"]).sample(flow, i["noise"], i["cond"], i["neg_cond"])
    logits = decoder(latent)
    return {"latent": latent, "logits": logits, "coords": occupied_coords(logits)}


def slat_pipeline(golden: Golden) -> dict[str, Tensor]:
    args, i = args_of(golden), golden.inputs
    flow = loaded(build_model("SLatFlowModel", args["flow"]), golden.weights)
    noise = SparseTensor(i["noise"], i["coords"])
    events = list(sampler_of(args["sampler"]).run(flow, noise, i["cond"], i["neg_cond"]))
    samples = events[-1].state.feats
    return {
        "x_t": torch.stack([event.state.feats for event in events]),
        "samples": samples,
        "slat": samples * i["std"] + i["mean"],
    }


CHECKERS: list[tuple[str, Callable[[Golden], dict[str, Tensor]]]] = [
    # Pipelines first: their titles name their parts.
    ("SLatFlowModel ->", slat_pipeline),
    ("SparseStructureFlowModel ->", structure_pipeline),
    ("SparseStructureFlowModel", structure_flow),
    ("SparseStructureEncoder", structure_encoder),
    ("SparseStructureDecoder", structure_decoder),
    ("SLatFlowModel", slat_flow),
    ("SLatEncoder", slat_encoder),
    ("SLatGaussianDecoder", gaussian_decoder),
    ("SLatRadianceFieldDecoder", radiance_decoder),
    ("SLatMeshDecoder", mesh_decoder),
    ("SparseFeatures2Mesh", surfaces.surface),
    ("FlowEuler", sampler),
    ("PositionEmbedder", embedders),
    ("norm layers", norm_layers),
    ("SparseDownsample", down_up),
    ("SparseSubdivide", subdivide),
    ("SparseConv3d", sparse_conv),
    ("SparseResBlock3d", res_block),
    ("SparseMultiHeadAttention", sparse_attention),
    ("ModulatedSparseTransformerCrossBlock", modulated_block),
    ("SparseTransformerBlock", plain_block),
    ("camera helper", surfaces.cameras),
    ("image pre-processing", surfaces.image_preprocess),
]
"""Part of the class title and what computes such a file's outputs; the first that fits is taken."""
