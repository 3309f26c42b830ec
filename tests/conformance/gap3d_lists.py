"""GAP3D's lists: state-dict names of the full-size networks, and prompts."""

from __future__ import annotations

from importlib.resources import files
from itertools import chain
from typing import Any

import torch

from gap3d_app.models.checkpoint import build_model, read_config
from gap3d_app.models.gap3d_checkpoint import split_checkpoint
from gap3d_app.models.grid_dit import GridDiTConfig
from gap3d_app.models.image_encoder import from_torch_hub
from gap3d_app.models.prompt_tokenizer import Special, collate, prompt_pieces
from tests.conformance.golden import Row


def full_size(stem: str) -> torch.nn.Module:
    """A network of the full size, without memory, from its configuration file."""
    name, args = read_config(str(files("gap3d_app.models") / "configs" / stem))
    with torch.device("meta"):
        return build_model(name, args)


def meta_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors without memory of the listed shapes."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def differences(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> int:
    """Names that only one side has, or that differ in shape."""
    own = model.state_dict()
    return len(own.keys() ^ state.keys()) + sum(own[k].shape != state[k].shape for k in own.keys() & state.keys())


def check_gap3d_keys(content: dict[str, Any]) -> list[Row]:
    """Names, shapes and counts of a released checkpoint, in both layouts of its Qwen part."""
    shapes, counts = content["keys"], content["parameters"]["by_part"]
    newer = {
        key.replace("visual.", "model.visual.", 1)
        if key.startswith("visual.")
        else key.replace("model.", "model.language_model.", 1)
        if key.startswith(("model.layers.", "model.norm.", "model.embed_tokens."))
        else key: shape
        for key, shape in shapes.items()
    }
    extra = {key: value["shape"] for key, value in content["optional_keys"].items()}
    stems = {
        "grid_dit": "gap3d_grid_dit",
        "prompt_encoder": "qwen2_5_vl_3b",
        "image_encoder": "dinov2_reg_large",
    }
    models = {part: full_size(stem) for part, stem in stems.items()}
    rows = []
    for layout, listed in (("", shapes), (" newer layout", newer), (" with copies", shapes | extra)):
        parts = split_checkpoint(meta_state(listed))
        rows += [Row(part + layout, float(differences(models[part], parts[part])), 0.0) for part in stems]
    totals = {part: sum(p.numel() for p in model.parameters()) for part, model in models.items()}
    language = counts["vlm_language"] + counts["vlm_vision"] + counts["latent_queries"]
    expected = [counts["diffusion_transformer"], language, counts["dinov2_tower"]]
    rows += [
        Row(f"{part} parameters", float(abs(totals[part] - n)), 0.0)
        for part, n in zip(stems, expected, strict=True)
    ]
    transformer = content["transformer"]
    config = GridDiTConfig(**transformer["constructor"])
    found = (config.head_dim, config.modulation_dim, config.ffn_dim)
    wanted = tuple(transformer[k] for k in ("head_dim", "time_embedding_dim", "feed_forward_width"))
    rows.append(Row("derived sizes", float(found != wanted), 0.0, "" if found == wanted else str(found)))
    inferred = GridDiTConfig.from_state_dict(split_checkpoint(meta_state(shapes))["grid_dit"])
    rows.append(Row("sizes from tensors", float(inferred != config), 0.0))
    return rows + config_rows(content["config_json"], models["prompt_encoder"].config)


def config_rows(listed: dict[str, Any], config: Any) -> list[Row]:
    """Fields of the released config.json that our configuration repeats."""
    text = {name: value for name, value in vars(config.text_config).items() if name in listed}
    vision = {name: v for name, v in vars(config.vision_config).items() if name in listed["vision_config"]}
    own = {name: value for name, value in vars(config).items() if name in listed and name != "vision_config"}
    pairs = [(value, listed[name]) for name, value in chain(text.items(), own.items())]
    pairs += [(value, listed["vision_config"][name]) for name, value in vision.items()]
    pairs.append((config.model_max_length, listed["tokenizer_model_max_length"]))
    pairs.append((config.text_config.mrope_section, listed["rope_scaling"]["mrope_section"]))
    wrong = sum((list(a) if isinstance(a, tuple) else a) != b for a, b in pairs)
    return [Row("config fields", float(wrong), 0.0, f"{len(pairs)} compared")]


def check_tower_keys(content: dict[str, Any]) -> list[Row]:
    """Names and shapes of the full-size image encoder in both libraries."""
    model = full_size("dinov2_reg_large")
    fields = vars(model.config)
    wrong = sum(fields.get(name) != value for name, value in content["config"].items())
    total = sum(p.numel() for p in model.parameters())
    return [
        Row("transformers names", float(differences(model, meta_state(content["keys"]))), 0.0),
        Row(
            "torch.hub names", float(differences(model, from_torch_hub(meta_state(content["torch_hub_keys"])))), 0.0
        ),
        Row("parameters", float(abs(total - content["parameters"])), 0.0),
        Row("config fields", float(wrong), 0.0),
    ]


def runs(ids: list[int]) -> list[list[int]]:
    """Run-length coding [id, count]."""
    out: list[list[int]] = []
    for token in ids:
        if out and out[-1][0] == token:
            out[-1][1] += 1
        else:
            out.append([token, 1])
    return out


def expand(coded: list[list[int]]) -> list[int]:
    """Inverse of `runs`."""
    return [token for token, count in coded for _ in range(count)]


def check_prompts(content: dict[str, Any]) -> list[Row]:
    """Rendered text, the layout of special ids, batches and truncation.

    Ids of ordinary text need Qwen's vocabulary, which the file does not hold: those are taken from it.
    """
    template = content["template"]
    special, length = template["special_tokens"], template["model_max_length"]
    rows = []

    def collated(prompts: list[list[int]], n_query: int) -> dict[str, torch.Tensor]:
        start, slot, pad = special["[IMG]"], special["<image>"], special[template["pad_token"]]
        return collate(prompts, n_query, start, slot, pad, length)

    for number, case in enumerate(content["cases"]):
        ids = case.get("prompt_ids") or expand(case["prompt_ids_runs"])
        full = expand(case["full_ids_runs"])
        slots = ids.count(special["<|image_pad|>"])
        pieces = prompt_pieces(case["caption"], slots)
        ours = [special[str(piece)] for piece in pieces if isinstance(piece, Special)]
        listed = [token for token in ids if token in special.values()]
        batch = collated([ids], full.count(special["<image>"]))
        turn = len(ids) - 5  # start, role, newline, end, newline of the empty assistant turn
        wrong = {
            "text": rendered(pieces, slots) != case["prompt_text"],
            "special ids": ours != listed,
            "ids": batch["input_ids"][0].tolist() != full,
            "query start": batch["query_start"].tolist() != [case["query_start"]],
            "start position": full[case["image_start_position"]] != special["[IMG]"],
            "lengths": (len(ids), len(full)) != (case["prompt_length"], case["full_length"]),
            "supervised": list(range(turn, len(ids))) != case["supervised_prompt_positions"],
            "mask": not bool(batch["attention_mask"].all()) == case["attention_mask_all_true"] is True,
        }
        names = [name for name, bad in wrong.items() if bad]
        rows.append(Row(f"case {number}", float(len(names)), 0.0, ", ".join(names)))
    known = {case["caption"]: case.get("prompt_ids") for case in content["cases"]}
    for number, entry in enumerate(content["batches"]):
        batch = collated([known[caption] for caption in entry["captions"]], content_queries(content))
        wrong = [
            list(batch["input_ids"].shape) != entry["shape"],
            [runs(row) for row in batch["input_ids"].tolist()] != entry["input_ids_runs"],
            batch["query_start"].tolist() != entry["query_start"],
            batch["attention_mask"].sum(1).tolist() != entry["attention_mask_true"],
        ]
        rows.append(Row(f"batch {number}", float(sum(wrong)), 0.0))
    for number, entry in enumerate(content["truncation"]):
        rows.append(Row(f"truncation {number}", float(truncation_errors(content, entry, collated)), 0.0))
    return rows


def rendered(pieces: list[str], slots: int) -> str:
    """Prompt text; the file writes many equal image slots as one with a factor."""
    return "".join(pieces).replace("<|image_pad|>" * slots, f"<|image_pad|>*{slots}") if slots else "".join(pieces)


def content_queries(content: dict[str, Any]) -> int:
    """Number of query slots in the file's full sequences."""
    slot = content["template"]["special_tokens"]["<image>"]
    return expand(content["cases"][0]["full_ids_runs"]).count(slot)


def truncation_errors(content: dict[str, Any], entry: dict[str, Any], collated: Any) -> int:
    """A prompt that is too long: its kept ids come first, the closing turn is lost, the queries stay."""
    full = expand(entry["full_ids_runs"])
    kept = full[: entry["kept"]]
    # What was cut off is not stored: any ids will do, up to the length before cutting.
    prompt = kept + [0] * (entry["prompt_length_before"] - len(kept))
    batch = collated([prompt], content_queries(content))
    return sum(
        [
            batch["input_ids"][0].tolist() != full,
            batch["query_start"].tolist() != [entry["query_start"]],
            batch["input_ids"].shape[1] != entry["full_length"],
        ]
    )
