"""GridDiT, its sampling and its objective against reference vectors, golden files and their own rules."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gap3d_app.models.checkpoint import build_model, load_model, read_config, save_model
from gap3d_app.models.gap3d_objective import GridObjective, train_schedule
from gap3d_app.models.grid_dit import GridDiT, GridDiTConfig
from gap3d_app.models.grid_sampling import draw_grid_noise, generate_grid, grid_sampler, sample_grid
from gap3d_app.models.token_grid import GridState, grid_canvas, pack_grid, split_canvas, unpack_grid
from gap3d_app.nn.grid_rope import rope_table, rotate, rotate_real, tiled_rope
from tests.conformance import gap3d
from tests.conformance import golden as gold
from tests.conformance.__main__ import main

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "gap3d"
CONFIGS = Path(__file__).resolve().parents[2] / "gap3d_app" / "models" / "configs"
TINY = GridDiTConfig(
    input_size=5, in_channels=12, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, latent_embedding_size=20
)


@pytest.fixture
def dit() -> GridDiT:
    torch.manual_seed(0)
    model = GridDiT(TINY).eval()
    for block in model.blocks():
        torch.nn.init.normal_(block.gate)
    return model


def random_state(batch: int = 2, config: GridDiTConfig = TINY) -> GridState:
    return draw_grid_noise(config, torch.Generator().manual_seed(1), batch)


def largest(a: GridState, b: GridState) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
@torch.no_grad()
def test_outputs_agree_with_the_golden_file(path: Path) -> None:
    rows = gap3d.check(gold.read(path))
    assert rows
    for row in rows:
        assert row.passed, f"{row.name}: {row.error} > {row.tolerance} {row.note}"


def test_every_golden_file_of_the_shared_folder(shared_dir: Path) -> None:
    folder = shared_dir / "conformance"
    lists = [folder / "gap3d_state_dict.json", folder / "dinov2_reg_state_dict.json"]
    assert main([str(path) for path in (folder / "gap3d", *lists)]) == 0


# Closed-form reference vectors of the specification, section 3.9.


def reference_model() -> GridDiT:
    config = GridDiTConfig(
        input_size=37, in_channels=1024, dim=64, n_layers=2, n_heads=4, multiple_of=32, latent_embedding_size=48
    )
    assert (config.ffn_dim, config.modulation_dim) == (192, 64)
    model = GridDiT(config).eval()
    weights = model.state_dict()
    assert len(weights) == 76
    for rank, key in enumerate(sorted(weights)):
        shape = weights[key].shape
        k = torch.arange(weights[key].numel(), dtype=torch.float64)
        s = torch.sin(0.7 * rank + 0.37 * k + 0.1).view(shape)
        last = key.rpartition(".")[2]
        if last == "bias":
            value = 0.1 * s
        elif last in ("gate", "cls_role", "reg_roles"):
            value = 0.5 * s
        elif len(shape) == 1:
            value = 1 + 0.1 * s
        else:
            value = s * math.sqrt(3 / shape[1])
        weights[key].copy_(value.float())
    return model


def reference_inputs() -> tuple[GridState, torch.Tensor]:
    c = torch.arange(1024, dtype=torch.float64)
    place = torch.arange(37 * 37, dtype=torch.float64)
    patch = torch.sin(0.013 * (7 * c[:, None] + 3 * place)).view(1, 1024, 37, 37)
    m = torch.arange(4, dtype=torch.float64)
    reg = torch.cos(0.05 * c + m[:, None] + 1)
    i, d = torch.arange(8, dtype=torch.float64), torch.arange(48, dtype=torch.float64)
    cond = torch.sin(0.3 * i[:, None] + 0.2 * d)[None].float()
    return GridState(patch.float(), torch.cos(0.05 * c)[None].float(), reg[None].float()), cond


def facts(state: GridState) -> list[float]:
    patch, cls, reg = state
    values = [*patch[0, 0, 0, :4], *patch[0, 0, :4, 0], patch[0, 1023, 36, 36]]
    values += [*cls[0, :4], *reg[0, :4, 0], patch.std()]
    return [float(v) for v in values]


REFERENCE = {
    (1.0, 500): [
        *(1.22314, 1.21180, 1.20151, 1.19107, 1.22314, 0.619906, 0.646328, 1.21511, -0.610348),
        *(-0.451657, 6.72315, 1.91712, -6.34127, -6.64378, -3.60495, 4.59712, 3.37882, 0.906609),
    ],
    (0.0, 500): [
        *(0.594625, 0.583188, 0.571385, 0.559001, 0.594625, 0.0507063, 0.0829033, 0.646888, -0.102714),
        *(-0.143934, 5.16015, 1.24122, -4.93750, -4.41405, -3.64503, 4.92375, 2.34357, 0.460368),
    ],
    (1.0, 20): [
        *(1.04227, 1.02879, 1.01667, 1.00452, 1.04227, 0.424369, 0.453128, 1.04243, -0.442269),
        *(-0.344098, 6.33444, 1.71800, -5.99947, -6.10448, -3.55261, 4.43304, 3.11095, 0.754953),
    ],
}


@torch.no_grad()
def test_reference_vectors() -> None:
    model, (state, cond) = reference_model(), reference_inputs()
    for (factor, time), expected in REFERENCE.items():
        found = facts(model(*state, factor * cond, torch.tensor([time])))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_reference_sampling() -> None:
    model, (state, cond) = reference_model(), reference_inputs()
    last = list(sample_grid(model, cond, state, grid_sampler(4, 3.0)))[-1]
    found = facts(last.state)
    expected = [-1.15322, -1.10992, -1.06852, -1.02760]
    torch.testing.assert_close(found[:4], expected, rtol=0, atol=1e-4)
    rest = [1.71413, 1.69612, -4.82596, -0.954943, 6.42388, 5.83563, 2.29618, -3.93664, -3.48527, 1.162913]
    torch.testing.assert_close(found[8:], rest, rtol=0, atol=1e-4)


def test_full_size_has_the_released_parameter_count() -> None:
    with torch.device("meta"):
        model = build_model(*read_config(CONFIGS / "gap3d_grid_dit"))
    assert sum(p.numel() for p in model.parameters()) == 1_363_187_104
    assert len(model.state_dict()) == 648
    assert model.state_dict()["model.layers.0.feed_forward.linear_1.weight"].shape == (4864, 1792)
    assert GridDiTConfig.from_state_dict(model.state_dict()) == model.config


def test_sizes_come_from_the_tensors(dit: GridDiT) -> None:
    found = GridDiTConfig.from_state_dict(dit.state_dict(), input_size=5)
    assert found == TINY


@pytest.mark.parametrize("bad", [{"patch_size": 2}, {"summary_token_dim": 8}, {"n_heads": 3}, {"qk_norm": False}])
def test_unsupported_options_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError):
        GridDiT.from_args(**TINY.to_args() | bad)


@torch.no_grad()
def test_cached_condition_gives_the_same_numbers(dit: GridDiT) -> None:
    state, cond = random_state(), torch.randn(2, 6, 20)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    t = torch.tensor([300.0, 900.0])
    for m in (None, mask):
        direct = dit(*state, cond, t, cond_mask=m)
        cached = dit(*state, None, t, cond_cache=dit.condition_cache(cond, m))
        assert largest(direct, cached) == 0.0


@torch.no_grad()
def test_null_condition_has_no_keys(dit: GridDiT) -> None:
    state, cond, t = random_state(), torch.randn(2, 1, 20).expand(-1, 6, -1), torch.tensor([300.0, 900.0])
    for given in (cond, torch.zeros_like(cond)):
        cache = dit.null_cache(given)
        assert cache.keys_values[0][0] is None and cache.keys_values[0][1].shape[2] == 1
        assert largest(dit(*state, given, t), dit(*state, None, t, cond_cache=cache)) < 1e-5


@torch.no_grad()
def test_conditions_prepared_together(dit: GridDiT) -> None:
    """Prompts and the null condition, whose modulations are made in one product: as each on its own."""
    state, times = random_state(), torch.tensor([[900.0], [300.0]])
    conds = [torch.randn(2, 6, 20), torch.zeros(2, 6, 20), torch.randn(2, 6, 20)]
    for step, t in zip(dit.prepare(conds, times), times, strict=True):
        for made, cond in zip(dit.velocities(tuple(state), step), conds, strict=True):
            assert largest(made, dit(*state, cond, t.expand(2))) < 1e-5


@torch.no_grad()
def test_masked_tokens_have_no_influence(dit: GridDiT) -> None:
    state, cond, t = random_state(), torch.randn(2, 6, 20), torch.tensor([300.0, 900.0])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]] * 2)
    changed = cond.clone()
    changed[:, 3:] += 5
    assert largest(dit(*state, cond, t, cond_mask=mask), dit(*state, changed, t, cond_mask=mask)) < 1e-6
    assert largest(dit(*state, cond, t), dit(*state, changed, t)) > 1e-3


@torch.no_grad()
def test_rotation_keeps_lengths_and_leaves_leading_tokens() -> None:
    x = torch.randn(1, 5 + 12, 2 * 16)
    rope = tiled_rope(3, 4, 16, 2, 5, x.device)
    turned = rotate(x, rope)
    torch.testing.assert_close(turned, rotate_real(x, rope))  # the form used on other devices
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :6], x[:, :6])  # class, registers, and patch (0, 0)
    cos, sin = rope_table(3, 4, 16)
    assert cos.shape == (17, 8)
    # Patch (row 2, column 1): pair 0 turns by the row, pair 1 by the column.
    assert math.isclose(sin[5 + 2 * 4 + 1, 0], math.sin(2), abs_tol=1e-6)
    assert math.isclose(sin[5 + 2 * 4 + 1, 1], math.sin(1), abs_tol=1e-6)


@torch.no_grad()
def test_sampling_yields_every_step_and_repeats(dit: GridDiT) -> None:
    cond = torch.randn(2, 6, 20)
    noise = random_state()
    events = list(sample_grid(dit, cond, noise, grid_sampler(5)))
    assert [(e.step, e.of) for e in events] == [(i, 5) for i in range(1, 6)]
    tokens = generate_grid(dit, cond, noise, grid_sampler(5))
    assert tokens.shape == (2, 1 + 4 + 25, 12)
    assert torch.equal(tokens, pack_grid(*events[-1].state))
    # One doubled call and two calls a step are the same guidance.
    apart = generate_grid(dit, cond, noise, grid_sampler(5, batch_guidance=False))
    torch.testing.assert_close(tokens, apart, rtol=1e-4, atol=1e-5)
    alone = generate_grid(dit, cond[:1], GridState(*(x[:1] for x in noise)), grid_sampler(5))
    torch.testing.assert_close(tokens[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_guided_sampling_equals_plain_calls(dit: GridDiT, threads: int) -> None:
    """Folded, cached and, with two threads, side by side: the numbers of one plain call a prediction."""
    cond, noise, sampler = torch.randn(2, 6, 20), random_state(), grid_sampler(4, cfg_interval=(0.4, 1.0))
    plain = replace(sampler, batch_guidance=False)
    slow = plain.sample(lambda state, t, c: tuple(dit(*state, c, t)), tuple(noise), cond, torch.zeros_like(cond))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = generate_grid(dit, cond, noise, sampler)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(fast, pack_grid(*slow), rtol=1e-4, atol=1e-5)


def test_noise_of_a_sample_depends_on_its_generator_only() -> None:
    many = draw_grid_noise(TINY, [torch.Generator().manual_seed(s) for s in (7, 8)])
    one = draw_grid_noise(TINY, torch.Generator().manual_seed(8))
    for a, b in zip(many, one, strict=True):
        assert torch.equal(a[1:], b)


def test_save_and_load(dit: GridDiT, tmp_path: Path) -> None:
    save_model(dit, tmp_path / "grid_dit")
    again = load_model(tmp_path / "grid_dit")
    assert again.config == dit.config
    state, cond, t = random_state(), torch.randn(2, 3, 20), torch.tensor([1.0, 2.0])
    with torch.no_grad():
        assert largest(dit(*state, cond, t), again(*state, cond, t)) == 0.0


def test_grid_layouts_are_inverses() -> None:
    state = random_state()
    assert largest(unpack_grid(pack_grid(*state), 5, 5), state) == 0.0
    canvas, valid = grid_canvas(state)
    assert largest(split_canvas(canvas), state) == 0.0
    assert valid[0].sum() == 1 + 4 + 25
    with pytest.raises(ValueError, match="29 tokens"):
        unpack_grid(torch.zeros(1, 29, 12), 5, 5)


def test_objective_draws_in_the_released_order() -> None:
    target = random_state(3)
    draws = GridObjective().draw(target, torch.Generator().manual_seed(5))
    again = torch.Generator().manual_seed(5)
    assert torch.equal(draws.noise.patch, torch.randn(target.patch.shape, generator=again))
    assert torch.equal(draws.u, torch.rand(3, generator=again))
    assert torch.equal(draws.noise.cls, torch.randn(target.cls.shape, generator=again))
    assert torch.equal(draws.noise.reg, torch.randn(target.reg.shape, generator=again))


@pytest.mark.parametrize(("kind", "middle"), [("uniform", 0.5), ("logit_normal", 0.73)])
def test_time_and_drop_statistics(kind: str, middle: float) -> None:
    config = replace(TINY, input_size=1, in_channels=1)
    target = draw_grid_noise(config, torch.Generator().manual_seed(0), 20000)
    draws = GridObjective(sample_time=kind).draw(target, torch.Generator().manual_seed(0))
    assert 0.09 < draws.dropped.mean() < 0.11
    inside = ((draws.u > 0.25) & (draws.u < 0.75)).float().mean().item()
    assert abs(inside - middle) < 0.02
    assert abs(draws.u.mean().item() - 0.5) < 0.01
    with pytest.raises(ValueError, match="sample_time"):
        GridObjective(sample_time="cosine")


def test_dropped_samples_get_the_null_condition_and_gradients_flow(dit: GridDiT) -> None:
    target, cond = random_state(), torch.randn(2, 6, 20, requires_grad=True)
    objective = GridObjective()
    draws = objective.draw(target, torch.Generator().manual_seed(2))._replace(dropped=torch.tensor([1.0, 0.0]))
    losses = objective(dit, target, cond, draws)
    losses["loss"].backward()
    assert cond.grad[0].abs().max() == 0 and cond.grad[1].abs().max() > 0
    weighted = 0.4 * losses["patch"] + 0.3 * losses["cls"] + 0.3 * losses["reg"]
    torch.testing.assert_close(losses["loss"], weighted)
    assert dit.model.cls_role.grad.abs().max() > 0


def test_training_times_run_from_one_to_a_thousand() -> None:
    timesteps, sigmas = train_schedule()
    assert timesteps[0] == 1000 and sigmas[0] == 1 and abs(timesteps[-1].item() - 1) < 1e-4
    noised = GridObjective().noised(random_state(), random_state(), torch.tensor([0.0, 0.9999999]))
    assert noised.timestep[0] == 1000 and abs(noised.timestep[1].item() - 1) < 1e-4


def test_stress_weighs_the_squares():
    shapes = GridState((2, 5, 3, 3), (2, 5), (2, 4, 5))
    predicted, velocity = (GridState(*(torch.randn(shape) for shape in shapes)) for _ in range(2))
    plain = GridObjective().loss(predicted, velocity)
    same = GridObjective().loss(predicted, velocity, GridState(*(torch.ones(shape) for shape in shapes)))
    assert all(torch.equal(same[name], plain[name]) for name in plain)
    stress = GridState(torch.zeros(2, 1, 3, 3), torch.full((2, 1), 3.0), torch.ones(2, 4, 1))
    stress.patch[1, 0, 2, 0] = 1.0
    found = GridObjective().loss(predicted, velocity, stress)
    square = (predicted.patch - velocity.patch)[1, :, 2, 0].square().sum() / predicted.patch.numel()
    torch.testing.assert_close(found["patch"], square)
    torch.testing.assert_close(found["cls"], 3 * plain["cls"])
    assert torch.equal(found["reg"], plain["reg"])
