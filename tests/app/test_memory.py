"""Memory modes: networks come for their stage and go; what happens when memory runs out."""

import pytest
import torch
from PIL import Image
from torch import nn

from gap3d_app import memory, stages
from gap3d_app.errors import GenerationError, InputError, OutOfMemory
from gap3d_app.memory import Residency
from gap3d_app.modes import LOW_VRAM, RESIDENT
from gap3d_app.nn.embeddings import TokenEmbedding
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.prompt import Prompt

FAST = dict(preset="fast")
META = torch.device("meta")  # a device on which tensors have shapes only, so that a copy there is seen


@pytest.fixture
def low(tiny_weights) -> Gap3DPipeline:
    return Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32", memory=LOW_VRAM)


class Tower(nn.Module):
    """Blocks, a buffer, and one matrix in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
        self.register_buffer("table", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def devices(network: nn.Module) -> set[str]:
    return {str(tensor.device) for tensor in [*network.parameters(), *network.buffers()]}


def test_a_network_comes_and_goes_home_unchanged():
    tower = Tower()
    before = {key: value.data_ptr() for key, value in tower.state_dict().items()}
    residency = Residency(META, LOW_VRAM)
    residency.bring("tower", tower)
    residency.bring("tower", tower)
    assert devices(tower) == {"meta"} and residency.present == ["tower"]
    assert tower.first.weight is tower.last.weight and residency.used == memory.byte_size(tower) == 4 * 4 * 16 + 8
    assert tower(torch.ones(1, 4, device=META)).shape == (1, 4)
    residency.send_home()
    assert {key: value.data_ptr() for key, value in tower.state_dict().items()} == before
    assert residency.used == 0 and residency.present == [] and tower.first.weight is tower.last.weight


class Words(nn.Module):
    """A table of tokens and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = TokenEmbedding(6, 4), nn.Linear(4, 4)


def test_a_table_of_tokens_stays_with_the_host():
    words = Words()
    table, residency = words.embed.weight, Residency(META, LOW_VRAM)
    residency.bring("words", words)
    assert words.embed.weight is table and devices(words.layer) == {"meta"}
    assert residency.peak == memory.byte_size(words.layer)
    residency.send_home()
    assert devices(words) == {"cpu"} and words.embed.weight is table


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_resident_table_of_tokens_gives_the_same_rows():
    residency, words = Residency(torch.device("cuda")), Words().cuda()
    ids = torch.tensor([[1, 5], [0, 1]], device="cuda")
    expected = words.embed(ids)
    assert residency.settle(words) is words and devices(words.embed) == {"cpu"} and devices(words.layer) == {"cuda:0"}
    rows = words.embed(ids)
    assert rows.is_cuda and torch.equal(rows, expected)


def test_a_large_network_comes_block_by_block():
    tower = Tower()
    residency = Residency(META, LOW_VRAM, largest_whole=100)
    residency.bring("tower", tower)
    assert str(tower.first.weight.device) == "meta" and str(tower.layers[0].weight.device) == "cpu"
    assert tower(torch.ones(1, 4, device=META)).shape == (1, 4)
    assert residency.peak == 64 + 8 + 64 < memory.byte_size(tower) and residency.used == 72
    with pytest.raises(RuntimeError):  # a block that fails leaves the device too
        tower.layers[0](torch.ones(1, 5, device=META))
    assert residency.used == 72
    residency.send_home()
    assert devices(tower) == {"cpu"} and residency.used == 0
    assert tower(torch.ones(1, 4)).device.type == "cpu" and residency.used == 0


@pytest.mark.parametrize("largest_whole", [1000, 100])
def test_memory_that_runs_out_half_way_leaves_nothing_behind(monkeypatch, largest_whole):
    """Of a network that comes whole, and of what comes whole of a large one."""
    tower = Tower()
    residency = Residency(META, LOW_VRAM, largest_whole=largest_whole)
    moved, move = [], torch.Tensor.to

    def full(tensor, *args, **kwargs):
        moved.append(tensor)
        if len(moved) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return move(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(torch.OutOfMemoryError):
        residency.bring("tower", tower)
        tower.layers[0](torch.ones(1, 4, device=META))
    assert len(moved) == 2
    residency.send_home()
    assert devices(tower) == {"cpu"} and residency.used == 0


def test_every_block_of_the_language_model_comes_by_itself(low, monkeypatch):
    """Text and pictures, with a limit under which the network counts as large."""
    low.memory.largest_whole = 1000
    encoder = low._loaded("prompt_encoder")
    blocks = {id(block) for part in encoder.modules() if isinstance(part, nn.ModuleList) for block in part}
    seen, enter = [], memory._BlockVisits._enter
    monkeypatch.setattr(memory._BlockVisits, "_enter", lambda self, block, _: seen.append(id(block)) or
                        enter(self, block, _))  # fmt: skip
    picture = Image.new("RGB", (64, 64), "red")
    low.memory.bring("prompt_encoder", encoder)
    rows = encoder(["make it blue"], [picture])
    assert set(seen) == blocks and len(blocks) > 1 and low.memory.peak < memory.byte_size(encoder)
    low.memory.send_home()
    assert torch.equal(rows, encoder(["make it blue"], [picture])) and len(seen) == len(blocks)


def test_a_stage_has_only_its_own_networks_and_the_result_is_the_same(low, tiny_pipeline, monkeypatch):
    seen: dict[str, set[str]] = {}
    end = Residency.send_home

    def note(self):
        seen.setdefault(f"{len(seen)}", set(self.present))
        end(self)

    monkeypatch.setattr(Residency, "send_home", note)
    asset = low("a red chair", **FAST)
    assert [names for names in seen.values() if names] == [
        {"prompt_encoder"}, {"grid_dit"}, {"structure_flow", "structure_decoder"}, {"slat_flow"},
        {"slat_decoder_mesh", "slat_decoder_gs"}, {"slat_decoder_mesh"},
    ]  # fmt: skip
    sizes = {name: memory.byte_size(network) for name, network in low._parts.items()}
    assert low.memory.peak == max(sum(sizes[name] for name in names) for names in seen.values()) < sum(sizes.values())
    assert low.memory.used == 0 and not asset.warnings
    assert torch.equal(asset.mesh.vertices, tiny_pipeline("a red chair", **FAST).mesh.vertices)


def test_preload_and_a_closed_run_leave_nothing_there(low):
    assert low.preload().memory.present == [] and low.memory.used == 0
    run = low.stages("a chair")
    for event in run:
        if event.stage == "structure":
            break
    assert low.memory.present
    run.close()
    assert low.memory.present == [] and low.memory.used == 0


def test_a_run_that_fails_leaves_nothing_there(low):
    low.part("structure_decoder").out_layer[-1].bias.fill_(float("nan"))
    low.memory.send_home()
    with pytest.raises(GenerationError, match="not finite") as caught:
        low("a chair", **FAST)
    assert low.memory.present == [] and low.memory.used == 0 and caught.value


def failing(monkeypatch, stage: str, times: int) -> list[int]:
    """Let a stage run out of memory so often, in its second step."""
    whole, calls = getattr(stages, f"{stage}_stage"), []

    def step(networks, runs):
        calls.append(len(runs))
        for number, event in enumerate(whole(networks, runs)):
            if len(calls) <= times and number == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            yield event

    monkeypatch.setattr(stages, f"{stage}_stage", step)
    return calls


@pytest.mark.parametrize("stage", ["grid", "structure", "slat", "decode"])
def test_out_of_memory_goes_on_in_the_lower_mode(tiny_weights, tiny_pipeline, monkeypatch, stage):
    pipe = Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32", memory=RESIDENT)
    calls = failing(monkeypatch, stage, 1)
    asset = pipe("a red chair", **FAST)
    assert len(calls) == 2 and pipe.memory.mode == LOW_VRAM
    assert len(asset.warnings) == 1 and f"at the stage {stage}" in asset.warnings[0] and LOW_VRAM in asset.warnings[0]
    assert not pipe("a red chair", **FAST).warnings
    monkeypatch.undo()
    assert torch.equal(asset.mesh.vertices, tiny_pipeline("a red chair", **FAST).mesh.vertices)


def test_out_of_memory_in_the_lowest_mode_says_what_would_fit(tiny_weights, monkeypatch):
    pipe = Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32", memory=RESIDENT)
    calls = failing(monkeypatch, "slat", 2)
    words = "stage slat even in low-vram mode; about 3.0 GB would fit: .*gap3d-mini"
    with pytest.raises(OutOfMemory, match=words) as caught:
        pipe("a red chair", **FAST)
    assert len(calls) == 2 and "\n" not in str(caught.value) and pipe.memory.used == 0
    assert len(pipe("a red chair", **FAST).mesh.faces)


def test_a_batch_that_is_too_large_becomes_smaller(tiny_weights, monkeypatch):
    pipe = Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32")
    monkeypatch.setattr(type(pipe), "batches", property(lambda self: {"structure": 3, "slat": 3, "mesh": 3}
                        if self.memory.mode == RESIDENT else {"structure": 2, "slat": 2, "mesh": 1}))  # fmt: skip
    calls = failing(monkeypatch, "mesh", 0)
    failing(monkeypatch, "structure", 1)
    made = pipe.batch(["a chair", "a boat", "a lamp"], **FAST)
    assert all(len(asset.mesh.faces) and asset.warnings for asset in made) and calls == [1, 1, 1]


@pytest.mark.parametrize("error, expected", [
    (torch.OutOfMemoryError("x"), True), (MemoryError(), True), (RuntimeError("CUDA error: out of memory"), True),
    (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True), (RuntimeError("shapes differ"), False),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True), (ValueError("out of memory"), False),
])
def test_what_counts_as_out_of_memory(error, expected):
    assert memory.is_out_of_memory(error) is expected


def test_what_came_of_a_shortage_counts_too():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise torch.OutOfMemoryError("x")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    assert memory.is_out_of_memory(caught.value)


def test_other_errors_are_not_tried_again(tiny_pipeline, monkeypatch):
    def broken(networks, runs):
        raise RuntimeError("shapes differ")
        yield

    monkeypatch.setattr(stages, "grid_stage", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        tiny_pipeline("a chair", **FAST)
    assert tiny_pipeline.memory.mode == RESIDENT


def test_the_mode_follows_the_card(tiny_weights, monkeypatch):
    sizes = lambda: {"a": 6 * 10**9, "b": 10**9}  # noqa: E731
    for free, mode in ((24 * 10**9, RESIDENT), (8 * 10**9, LOW_VRAM), (None, RESIDENT)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.choose("auto", torch.device("cuda"), sizes) == mode
        assert memory.choose(RESIDENT, torch.device("cuda"), sizes) == RESIDENT
    with pytest.raises(InputError, match="'tiny'; it must be auto or one of resident, low-vram"):
        Gap3DPipeline.from_pretrained(tiny_weights, memory="tiny")


def test_sizes_are_those_of_the_networks(releases):
    """On a graphics card: TRELLIS's in half precision, the encoders in single."""
    several = [releases[name] for name in ("image", "text", "dinov2", "clip", "qwen", "gap3d")]
    pipe = Gap3DPipeline.from_pretrained(several, device="cpu", dtype="float32").preload()
    for role, size in pipe.sizes().items():
        single, whole = memory.byte_size(pipe._parts[role]), role in ("image_encoder", "text_encoder")
        assert size == pytest.approx(single if whole else single / 2, rel=0.02), role
    low = Gap3DPipeline.from_pretrained(several, device="cpu", dtype="bfloat16", memory=LOW_VRAM)
    assert len(low(Prompt.read("a chair"), grid_steps=2, structure_steps=2, slat_steps=2).mesh.faces)
