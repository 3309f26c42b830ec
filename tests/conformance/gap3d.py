"""Checkers of the GAP3D family, chosen by what a file contains.

Each checker computes a file's outputs from its inputs, weights and constructor arguments and returns them by name;
sizes, seeds and file names are the file's own business. Tolerances are those of the golden files' README.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gap3d_app.models.gap3d_checkpoint import split_checkpoint
from gap3d_app.models.gap3d_objective import Draws, GridObjective, time_index, train_schedule
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.grid_sampling import grid_sampler, sample_grid
from gap3d_app.models.image_encoder import ImageEncoder, from_torch_hub
from gap3d_app.models.prompt_tokenizer import collate
from gap3d_app.models.token_grid import (
    GridState,
    grid_canvas,
    normalize_tokens,
    pack_grid,
    split_canvas,
    unpack_grid,
)
from gap3d_app.models.vlm import PromptEncoder
from gap3d_app.nn.embeddings import timestep_embedding
from gap3d_app.nn.grid_rope import rope_table, rotate, tiled_rope
from tests.conformance.gap3d_lists import check_gap3d_keys, check_prompts, check_tower_keys
from tests.conformance.gap3d_networks import dit_of, encoder_of, tower_config, tower_of
from tests.conformance.golden import Golden, Row, compare, compare_all
from train.eval.alignment import AlignmentMetrics, grid_metrics

Outputs = dict[str, Tensor]


def check(golden: Golden) -> list[Row] | None:
    """Rows of a file, or None if it does not belong to this family."""
    if golden.content is not None:
        return check_content(golden.content)
    for belongs, checker in CHECKERS:
        if belongs(golden):
            return checker(golden)
    return None


def check_content(content: Any) -> list[Row] | None:
    """Rows of a JSON file."""
    if not isinstance(content, dict):
        return None
    if {"keys", "torch_hub_keys", "mapping"} <= set(content):
        return check_tower_keys(content)
    if {"keys", "transformer", "config_json"} <= set(content):
        return check_gap3d_keys(content)
    if {"template", "cases", "truncation"} <= set(content):
        return check_prompts(content)
    return None


def wide(values: Outputs) -> Outputs:
    """Half-precision inputs widened to float32; the rest as it is."""
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in values.items()}


def state_of(values: Outputs, before: str = "", after: str = "") -> GridState:
    """The three entries whose names are `before` + part + `after`."""
    return GridState(*(values[f"{before}{name}{after}"] for name in GridState._fields))


def named(state: GridState, before: str = "", after: str = "") -> Outputs:
    """Inverse of `state_of`."""
    return {f"{before}{name}{after}": value for name, value in zip(GridState._fields, state, strict=True)}


def transformer(golden: Golden) -> list[Row]:
    """dit_*: one evaluation, with its intermediate values, with a mask, and for the null condition."""
    inputs, got = wide(golden.inputs), {}
    dit = dit_of(golden.weights, golden.meta["constructor"])
    state, cond, t = state_of(inputs), inputs["cond"], inputs["timestep"]
    layers: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda _m, _a, out: layers.append(out)) for b in dit.blocks()]
    got |= named(dit(*state, cond, t))
    for hook in hooks:
        hook.remove()
    got |= {f"layer{index}_tokens": tokens for index, tokens in enumerate(layers)}
    cache = dit.condition_cache(cond)
    time = dit.model.time_caption_embed.time(t)
    got |= {"caption_tokens": cache.tokens, "temb": time + cache.pooled, "tokens_in": dit.model.embed(*state)}
    cos, sin = rope_table(*state.patch.shape[-2:], dit.config.head_dim, 1 + dit.config.num_register_tokens)
    got |= {"rope_real": cos[None], "rope_imag": sin[None]}
    null = torch.zeros_like(cond)
    got |= named(dit(*state, null, t), "null_") | {"null_temb": time + dit.condition_cache(null).pooled}
    rows = compare_all(golden, got | masked(dit, inputs, time), dict.fromkeys(golden.outputs, 1e-4))
    # A step that reuses the condition's share must give the same numbers as one that computes it.
    cached = named(dit(*state, None, t, cond_cache=cache))
    return rows + [compare(f"cached_{k}", v, golden.outputs[k], 1e-4) for k, v in cached.items()]


def masked(dit: GridDiT, inputs: Outputs, time: Tensor) -> Outputs:
    """The masked call of a transformer file, if it has one."""
    if "cond_mask" not in inputs:
        return {}
    cond, mask = inputs["cond"], inputs["cond_mask"]
    out = named(dit(*state_of(inputs), cond, inputs["timestep"], cond_mask=mask), "masked_")
    return out | {"masked_temb": time + dit.condition_cache(cond, mask).pooled}


def rope_time(golden: Golden) -> list[Row]:
    """Rotary tables and the time embedding."""
    inputs, sizes = golden.inputs, golden.meta["constructor"]
    dit = dit_of(golden.weights, sizes["transformer"], partial=True)
    real, imag = rope_table(*sizes["grid"], sizes["head_dim"])
    small = rope_table(*sizes["small_grid"], sizes["small_head_dim"])
    x = inputs["rotate_x"]
    table = tiled_rope(*sizes["small_grid"], sizes["small_head_dim"], x.shape[2], 5, x.device)
    t, cond = inputs["timestep"], inputs["cond"]
    time, cache = dit.model.time_caption_embed.time(t), dit.condition_cache(cond)
    got = {
        "rope_real": real,
        "rope_imag": imag,
        "rope_small_real": small[0],
        "rope_small_imag": small[1],
        "rotate_y": rotate(x.flatten(2), table).view_as(x),
        "sinusoid": timestep_embedding(t, 256),
        "time_mlp": time,
        "caption_tokens": cache.tokens,
        "temb": time + cache.pooled,
        "temb_masked": time + dit.condition_cache(cond, inputs["cond_mask"]).pooled,
    }
    rotary = {name: 1e-5 for name in got if name.startswith("ro")}
    return compare_all(golden, got, dict.fromkeys(got, 1e-4) | {"sinusoid": 2e-4} | rotary)


def grid_pack(golden: Golden) -> list[Row]:
    """Token order, target normalisation, and the canvas for pictures."""
    inputs = golden.inputs
    state = state_of(inputs)
    canvas, valid = grid_canvas(state)
    tokens = normalize_tokens(inputs["tower_prenorm"])
    registers = state.reg.shape[1]
    side = math.isqrt(tokens.shape[1] - 1 - registers)
    got = {"sequence": pack_grid(*state), "tower_tokens": tokens, "unified_grid": canvas, "unified_valid": valid}
    got |= named(unpack_grid(tokens, side, side, registers), "target_")
    empty = GridState(*map(torch.zeros_like, state))
    for name in GridState._fields:
        marked = empty._replace(**{name: torch.ones_like(getattr(state, name))})
        mask = grid_canvas(marked)[0] > 0
        index = mask[0, 0].flatten().nonzero().flatten()
        got |= {f"mask_{name}": mask, f"canvas_index_{name}": index, f"unified_index_{name}": index}
    got["unified_index_cls"] = got["unified_index_cls"][0]
    unused = (~valid[0, 0]).flatten().nonzero().flatten()
    # The files list the first column before the first row.
    got["canvas_index_unused"] = unused[(unused < valid.shape[-1]).int().argsort(stable=True)]
    close = {name: 1e-5 for name in got if name.startswith(("tower", "target"))}
    return compare_all(golden, got, close)


def noising(golden: Golden) -> list[Row]:
    """Times, interpolation, condition drop and the step tables of the sampler."""
    inputs, objective = golden.inputs, GridObjective()
    clean, noise, u = state_of(inputs), state_of(inputs, after="_noise"), inputs["u"]
    noised = objective.noised(clean, noise, u)
    timesteps, sigmas = train_schedule()
    got = named(noised.state, after="_noisy") | named(noised.velocity, after="_velocity")
    got |= {"index": time_index(u), "timestep": noised.timestep, "sigma": sigmas[time_index(u)]}
    got |= {"train_timesteps": timesteps, "train_sigmas": sigmas}
    got["cond_after_drop"] = objective.drop(inputs["cond"], inputs["dropped"])
    # In bfloat16 the sigma that acts is the weight that noise of one gets beside a clean zero.
    zero = GridState(*(torch.zeros_like(x, dtype=torch.bfloat16) for x in clean))
    one = GridState(*(torch.ones_like(x) for x in zero))
    got["sigma_bfloat16"] = objective.noised(zero, one, u).state.cls[:, 0].float()
    for name in golden.outputs:
        if name.startswith("steps") and name.endswith("_sigmas"):
            got |= step_table(name.removesuffix("_sigmas"))
    exact = {"index"} | {name for name in got if name.endswith("_long")}
    loose = {name: 1e-4 for name in got if "timestep" in name}
    return compare_all(golden, got, dict.fromkeys(got, 1e-5) | loose | dict.fromkeys(exact, 0.0))


def step_table(name: str) -> Outputs:
    """Sigmas and network times of a sampling run named stepsN, as the network is really called."""
    seen: list[float] = []

    def record(state: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        seen.append(t[0].item())
        return state

    sampler = grid_sampler(int(name.removeprefix("steps")), guidance_scale=1.0)
    sampler.sample(record, torch.zeros(1, 1), torch.zeros(1, 1))
    sigmas = torch.tensor(sampler.times, dtype=torch.float32)
    long = torch.tensor(seen).long()
    return {f"{name}_sigmas": sigmas, f"{name}_timesteps": sigmas[:-1] * 1000, f"{name}_timesteps_long": long}


def losses_of(losses: Outputs, before: str = "") -> Outputs:
    """The objective's dictionary under the files' names."""
    return {before + ("loss" if k == "loss" else f"loss_{k}"): v for k, v in losses.items()}


def objective_file(golden: Golden) -> list[Row]:
    """Noisy states and the three losses for given predictions."""
    inputs, objective = golden.inputs, GridObjective(**loss_weights(golden))
    side = inputs["pred_patch"].shape[-2:]
    clean = unpack_grid(inputs["tower_tokens"], *side)
    noised = objective.noised(clean, state_of(inputs, "noise_"), inputs["u"])
    got = named(noised.state, "noisy_") | {"timestep": noised.timestep}
    got |= losses_of(objective.loss(state_of(inputs, "pred_"), noised.velocity))
    canvases = (split_canvas(inputs[name]) for name in ("unified_pred", "unified_target"))
    got |= losses_of(objective.loss(*canvases), "unified_")
    return compare_all(golden, got, dict.fromkeys(got, 1e-5) | {"timestep": 1e-4})


def loss_weights(golden: Golden) -> dict[str, float]:
    """Weights that a file names for the loss."""
    return {f"{name}_weight": value for name, value in golden.meta.get("weights", {}).items()}


def cond_path(golden: Golden) -> list[Row]:
    """Token ids to condition: text, truncated and with an image."""
    inputs, got, rows = golden.inputs, {}, []
    cases = sorted(name.removesuffix("_input_ids") for name in inputs if name.endswith("_input_ids"))
    for case in cases:
        ids = inputs[f"{case}_input_ids"]
        encoder = encoder_of(golden, max_length=ids.shape[1])
        rows += collation(encoder, inputs, case)
        pixels, grid = inputs.get(f"{case}_pixel_values"), inputs.get(f"{case}_image_grid_thw")
        grid = inputs.get(f"{case}_grid_thw") if grid is None else grid
        if pixels is not None:
            pixels = pixels.flatten(0, -2)
            got[f"{case}_vision_tokens"] = encoder.image_features(pixels, grid)
        states: list[Tensor] = []
        hook = encoder.model.layers[0].register_forward_hook(lambda _m, _a, out, s=states: s.append(out))
        embeds = encoder.embed(ids, pixels, grid)
        final = encoder.hidden_states(embeds)
        hook.remove()
        real = inputs[f"{case}_attention_mask"].unsqueeze(-1)
        labels = inputs[f"{case}_labels"]
        got |= {
            f"{case}_inputs_embeds": embeds,
            f"{case}_layer0_hidden_states": states[0] * real,
            f"{case}_hidden_states": final * real,
            f"{case}_condition": encoder.encode(ids, pixel_values=pixels, image_grid_thw=grid),
            f"{case}_labels_after": labels.masked_fill(ids == encoder.config.query_token_id, -100),
        }
    return rows + compare_all(golden, got, {k: 5e-5 for k in got if "labels" not in k})


def collation(encoder: PromptEncoder, inputs: Outputs, case: str) -> list[Row]:
    """Whether our collation of a case's prompts gives the file's batch, exactly."""
    config = encoder.config
    count = inputs[f"{case}_input_ids"].shape[0]
    prompts = [inputs[f"{case}_prompt{k}_ids"].tolist() for k in range(count)]
    batch = collate(
        prompts,
        config.n_query,
        config.img_start_token_id,
        config.query_token_id,
        config.pad_token_id,
        config.model_max_length,
    )
    return [compare(f"{case}_{name}", value, inputs[f"{case}_{name}"], 0.0) for name, value in batch.items()]


def train_step(golden: Golden) -> list[Row]:
    """One training forward from images and ids to losses, and gradients."""
    inputs, weights = golden.inputs, split_checkpoint(golden.weights)
    encoder = encoder_of(golden).freeze_language_model()
    dit = dit_of(weights["grid_dit"], golden.meta["constructor"]["dit"])
    tokens = tower_of(golden).encode(inputs["image"], normalized=True)
    objective = GridObjective(**loss_weights(golden))
    clean = unpack_grid(tokens, *inputs["noise_patch"].shape[-2:])
    draws = Draws(state_of(inputs, "noise_"), inputs["u"], inputs["dropped"])
    noised = objective.noised(clean, draws.noise, draws.u)
    with torch.enable_grad():
        hidden = encoder.encode(inputs["input_ids"], query_start=inputs["query_start"])
        cond = objective.drop(hidden, draws.dropped)
        prediction = dit(*noised.state, cond, noised.timestep)
        losses = objective(dit, clean, hidden, draws)
        losses["loss"].backward()
    got = {"tower_tokens": tokens, "condition": cond, "timestep": noised.timestep}
    got |= named(noised.state, "noisy_") | named(prediction, "pred_") | losses_of(losses)
    modules = {"model.dit.": dit, "": encoder}
    tolerances = dict.fromkeys(got, 1e-4)
    for name, expected in golden.part("outputs.grad").items():
        prefix = next(p for p in modules if name.startswith(p))
        got[f"grad.{name}"] = modules[prefix].get_parameter(name.removeprefix(prefix)).grad
        tolerances[f"grad.{name}"] = 1e-4 * expected.abs().max().item()
    return compare_all(golden, got, tolerances)


def sampling_run(dit: GridDiT, cond: Tensor, noise: GridState, steps: int, scale: float | None) -> list:
    """Events of one sampling run; scale None is the single conditional branch."""
    sampler = grid_sampler(steps, 1.0 if scale is None else scale)
    return list(sample_grid(dit, cond, noise, sampler))


def sampler_file(golden: Golden) -> list[Row]:
    """Every state, velocity and time of the sampling runs that the file lists."""
    inputs, got = golden.inputs, {}
    dit = dit_of(split_checkpoint(golden.weights)["grid_dit"], golden.meta["constructor"])
    cond, noise = inputs["cond"], state_of(inputs, "noise_")
    for name, run in golden.meta["runs"].items():
        steps, copies = run["num_inference_steps"], run["batch_copies"]
        events = sampling_run(dit, cond, noise, steps, run["guidance_scale"])
        states = [noise, *(event.state for event in events)]
        got |= named(states[-1], f"{name}_")
        got |= named(GridState(*map(torch.stack, zip(*states, strict=True))), f"{name}_traj_")
        table = step_table(f"steps{steps}")
        times = table[f"steps{steps}_timesteps_long"]
        got |= {f"{name}_{k}": table[f"steps{steps}_{k}"] for k in ("sigmas", "timesteps")}
        got[f"{name}_model_timestep"] = times[:, None].expand(-1, copies * cond.shape[0])
        conditions = torch.cat([torch.zeros_like(cond), cond])[-copies * cond.shape[0] :]
        velocities = [
            dit(*(torch.cat([x] * copies) for x in state), conditions, t.expand(len(conditions)))
            for state, t in zip(states, times, strict=False)
        ]
        got |= named(GridState(*map(torch.stack, zip(*velocities, strict=True))), f"{name}_velocity_")
    exact = {k: 0.0 for k in got if k.endswith("_model_timestep")}
    return compare_all(golden, got, dict.fromkeys(got, 5e-4) | exact)


def generate(golden: Golden) -> list[Row]:
    """Token ids to token grid, end to end, with the call's own metrics."""
    inputs = golden.inputs
    encoder = encoder_of(golden)
    dit = dit_of(split_checkpoint(golden.weights)["grid_dit"], golden.meta["constructor"]["dit"])
    cond = encoder.encode(inputs["input_ids"], inputs["attention_mask"], query_start=inputs["query_start"])
    found = encoder.encode(inputs["input_ids"])
    got, noise = {"condition": cond}, state_of(inputs, "noise_")
    side = noise.patch.shape[-2:]
    target = unpack_grid(tower_of(golden).encode(inputs["reference_image"], normalized=True), *side)
    steps = int(golden.meta["num_inference_steps"])
    for name, scale in (("guided", 3.0), ("nocfg", None)):
        state = sampling_run(dit, cond, noise, steps, scale)[-1].state
        got |= named(state, f"{name}_") | {f"{name}_embeds": pack_grid(*state)}
        metrics = {k: v.double().mean() for k, v in grid_metrics(state, target).items()}
        got |= {f"{name}_metric.{k}": v for k, v in metrics.items()}
    rows = compare_all(golden, got, dict.fromkeys(got, 5e-4))
    return [*rows, compare("condition_found", found, golden.outputs["condition"], 5e-5)]


def tower(golden: Golden) -> list[Row]:
    """The image encoder, and the mapping of torch.hub's names."""
    inputs, sizes = golden.inputs, golden.meta["constructor"]
    model = ImageEncoder(tower_config(sizes, sizes["norm_eps"]))
    model.load_state_dict(golden.weights)
    model.eval()
    image = inputs["image"]
    got = {
        "prenorm": model.prenorm(image),
        "norm": model(image),
        "gap3d_tokens": model.encode(image, normalized=True),
        "transformers_last_hidden_state": model(image),
        "transformers_hidden_states_last": model.prenorm(image),
        "prenorm_other_size": model.prenorm(inputs["image_other_size"]),
    }
    rows = compare_all(golden, got, dict.fromkeys(got, 5e-5))
    renamed = from_torch_hub(golden.part("hub"))
    wrong = len(renamed.keys() ^ golden.weights.keys())
    wrong += sum(not torch.equal(v, golden.weights[k]) for k, v in renamed.items() if k in golden.weights)
    return [*rows, Row("hub names", float(wrong), 0.0)]


def metrics(golden: Golden) -> list[Row]:
    """Alignment metrics over batches of different size."""
    inputs, running = golden.inputs, AlignmentMetrics()
    batches = sorted({name.split("_")[0] for name in inputs})
    for batch in batches:
        running.update(state_of(inputs, f"{batch}_pred_"), state_of(inputs, f"{batch}_target_"))
    got = {k: torch.tensor(v, dtype=torch.float64) for k, v in running.compute().items()}
    return compare_all(golden, got, dict.fromkeys(got, 1e-4))


def _has(*names: str) -> Callable[[Golden], bool]:
    return lambda golden: all(name in golden.tensors for name in names)


CHECKERS: list[tuple[Callable[[Golden], bool], Callable[[Golden], list[Row]]]] = [
    (_has("inputs.rotate_x", "outputs.sinusoid"), rope_time),
    (_has("inputs.tower_prenorm", "outputs.sequence"), grid_pack),
    (_has("inputs.u", "outputs.train_sigmas"), noising),
    (_has("inputs.u", "inputs.tower_tokens", "outputs.loss"), objective_file),
    (_has("inputs.image", "outputs.pred_patch", "outputs.loss"), train_step),
    (_has("outputs.text_condition", "inputs.text_input_ids"), cond_path),
    (_has("inputs.reference_image", "outputs.guided_embeds"), generate),
    (lambda golden: "runs" in golden.meta and "inputs.noise_patch" in golden.tensors, sampler_file),
    (_has("inputs.image", "outputs.prenorm", "outputs.gap3d_tokens"), tower),
    (_has("inputs.batch0_pred_patch", "outputs.cos_mean"), metrics),
    (_has("inputs.patch", "inputs.cond", "outputs.temb"), transformer),
]
