"""The doctor: its numbers are torch's own, it finds what is broken, and it leaves nothing behind."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2VisionConfig,
    Blip2VisionModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
)

from ziya_visual.core.config import Recipe, load_recipe
from ziya_visual.core.io import write_json, write_records
from ziya_visual.core.records import Example, ImageRef, Message
from ziya_visual.model.adapters import add_lora, freeze_all_but
from ziya_visual.model.attention import PLAIN
from ziya_visual.model.checkpoint import load_checkpoint, save_checkpoint
from ziya_visual.model.compose import compose
from ziya_visual.model.interop import ALIGNMENT
from ziya_visual.model.processor import ZiyaProcessor, normalise
from ziya_visual.train.batches import album
from ziya_visual.train.doctor import examine, machine
from ziya_visual.train.doctor.checkpoint import examine_checkpoint
from ziya_visual.train.doctor.data import draw
from ziya_visual.train.doctor.machine import examine_machine
from ziya_visual.train.doctor.memory import Memory, Shape, dry_step
from ziya_visual.train.doctor.plan import Plan
from ziya_visual.train.doctor.recipe import examine_recipe
from ziya_visual.train.doctor.skeleton import skeleton
from ziya_visual.train.pretrain_lm import corpus_texts, train_tokenizer
from ziya_visual.train.schedule import Optimizer
from ziya_visual.train.step import compute_losses

COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**SIZES, "image_size": 16, "patch_size": 8, "initializer_range": 0.02}
RECIPE = """
name: test
out: {folder}/run
precision: fp32
model: {{checkpoint: {folder}/checkpoint, lora: {{rank: 8, alpha: 16}}}}
data: {{path: [{folder}/data.jsonl]}}
stages:
  - {{name: align, steps: 5, images_per_step: 4, texts_per_image: 2, learning_rate: 0.004,
      tasks: {{caption: 1.0}}, trains: [qformer, query_tokens, projection, alignment],
      objectives: {{language_model: 1.0, contrastive: 1.0, matching: 0.5, grounded: 0.5}}}}
  - {{name: base, steps: 5, images_per_step: 4, texts_per_image: 2, learning_rate: 0.01,
      tasks: {{vqa: 1.0}}, trains: [qformer, query_tokens, projection, lora],
      objectives: {{language_model: 1.0}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, four pictures with texts about them, and a recipe for both."""
    folder = tmp_path_factory.mktemp("doctor")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(corpus_texts(np.random.default_rng(0), 30))
    llama = {"vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 64}
    model, alignment = compose(
        vision=Blip2VisionModel(Blip2VisionConfig(**VISION)),
        language_model=LlamaForCausalLM(
            LlamaConfig(**llama, num_hidden_layers=1, num_attention_heads=4, tie_word_embeddings=True)
        ),
        tokenizer=tokenizer,
        qformer={
            **SIZES,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "cross_attention_frequency": 1,
        },
        num_query_tokens=4,
        projection_size=16,
        seed=0,
    )
    processor = ZiyaProcessor(tokenizer, image_size=16, num_query_tokens=4)
    save_checkpoint(folder / "checkpoint", model=model, alignment=alignment, processor=processor)
    for color, rgb in COLORS.items():
        Image.new("RGB", (20, 20), rgb).save(folder / f"{color}.png")
    write_records(folder / "data.jsonl", examples(folder))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder


def examples(folder: Path) -> list[Example]:
    found = []
    for color in COLORS:
        for lang, question in (("en", "What color?"), ("zh", "什么颜色？")):
            image = ImageRef(path=str(folder / f"{color}.png"))
            common: dict[str, Any] = {"lang": lang, "image": image, "image_id": color}
            said = Message("assistant", color)
            found.append(Example(f"c-{color}-{lang}", task="caption", messages=(said,), **common))
            turns = (Message("user", question), said)
            found.append(Example(f"q-{color}-{lang}", task="vqa", messages=turns, **common))
    return found


def recipe(folder: Path, *changes: str) -> Recipe:
    return load_recipe(folder / "recipe.yaml", changes)


def one_stage(folder: Path, *changes: str) -> Recipe:
    """The recipe with its last stage alone."""
    made = recipe(folder, *changes)
    return made.model_copy(update={"stages": made.stages[1:]})


def plan(folder: Path, *changes: str, made: Recipe | None = None) -> Plan:
    made = made or recipe(folder, *changes)
    return Plan(made, skeleton(made), album(examples(folder)))


def real_step(folder: Path, made: Plan, number: int) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients, optimizer state and kept activations of the real model's first step."""
    stage, bf16 = made.recipe.stages[number], made.recipe.precision == "bf16"
    model, alignment, processor = load_checkpoint(folder / "checkpoint", attention=PLAIN)
    if any("lora" in before.trains for before in made.recipe.stages[: number + 1]):
        add_lora(model, rank=made.recipe.model.lora.rank, alpha=made.recipe.model.lora.alpha)
    freeze_all_but(model, alignment, stage.trains)
    optimizer = Optimizer([*model.named_parameters(), *alignment.named_parameters()])
    parameters = [*model.parameters(), *alignment.parameters()]
    own = {tensor.data_ptr() for tensor in [*parameters, *model.buffers(), *alignment.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    limit = model.config.qformer_config.max_position_embeddings
    batch = draw(
        made.recipe, number, made.album, processor.chat, queries=4, pair_tokens=limit, pair_tokenizer=None
    )[0]
    pixels = normalise(np.zeros((len(batch.pictures), 16, 16, 3), np.uint8))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embeds = model.encode_images(pixels)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = compute_losses(
                model, alignment, batch, embeds, objectives=stage.objectives, langs=made.album.langs, step=0
            )
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert optimizer.step(losses.total, lr=0.0)
    states = [state for part in optimizer.state_dict() for state in part["state"].values()]
    return (
        size(parameters),
        size(p.grad for p in parameters if p.grad is not None),
        size(tensor for state in states for tensor in state.values() if isinstance(tensor, torch.Tensor)),
        activations,
    )


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def total(memory: Memory, name: str) -> int:
    return sum(getattr(memory, name).values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_dry_step_needs_what_torch_allocates(folder: Path, number: int, precision: str) -> None:
    made = plan(folder, f"precision={precision}", f"stages.{number}.steps=1")  # one batch is drawn, that one
    memory = made.step(number, "cpu")
    weights, gradients, optimizer, activations = real_step(folder, made, number)
    assert total(memory, "weights") == pytest.approx(weights, rel=0.01)
    assert total(memory, "gradients") == pytest.approx(gradients, rel=0.01)
    assert total(memory, "optimizer") == pytest.approx(optimizer, rel=0.01)
    assert memory.activations + memory.casts == pytest.approx(activations, rel=0.03)


def test_parameters_are_the_real_models(folder: Path) -> None:
    facts = examine_checkpoint(folder / "checkpoint", examine_machine()).facts
    model, alignment, _ = load_checkpoint(folder / "checkpoint")
    modules = {
        "vision": model.vision_model,
        "qformer": model.qformer,
        "projection": model.language_projection,
        "language_model": model.language_model,
        "alignment": alignment,
    }
    expected = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    expected["query_tokens"] = model.query_tokens.numel()
    assert facts["parameters"] == expected
    assert facts["layout"] == "ziya-visual"
    assert facts["keys"] == "compared"
    assert facts["chat_format"] == "<human>:…\n<bot>:"
    assert facts["memory_to_run"]["fp32"]["weights_bytes"] == 4 * sum(expected.values())


def test_what_a_stage_trains_is_what_training_counts(folder: Path) -> None:
    made = plan(folder)
    model, alignment, _ = load_checkpoint(folder / "checkpoint")
    for number, stage in enumerate(made.recipe.stages):
        if "lora" in stage.trains:
            add_lora(model, rank=8, alpha=16)
        trained = {name: count for name, count in made.step(number, "cpu").trained.items() if count}
        assert trained == freeze_all_but(model, alignment, stage.trains)


def test_a_large_checkpoint_is_examined_without_its_weights(tmp_path: Path) -> None:
    config = Blip2Config(
        text_config=LlamaConfig(hidden_size=2048, num_hidden_layers=16, intermediate_size=5632).to_dict(),
        vision_config=Blip2VisionConfig(num_hidden_layers=2).to_dict(),
        image_token_index=3,
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        state = Blip2ForConditionalGeneration(config).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:  # a file with a hole, as large as the weights
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = psutil.Process().memory_info().rss
    found = examine_checkpoint(tmp_path, examine_machine())
    assert end > 3e9
    assert psutil.Process().memory_info().rss - before < 200e6
    assert found.problems == []
    assert found.facts["layout"] == "blip-2"
    assert sum(found.facts["parameters"].values()) == end // 4


@pytest.mark.parametrize("layout", ["blip-2", "instructblip", "ziya", "sharded"])
def test_other_layouts_are_told_apart(tmp_path: Path, layout: str) -> None:
    opt = OPTConfig(
        vocab_size=64,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    )
    qformer = {**SIZES, "encoder_hidden_size": 32, "vocab_size": 64}
    parts: dict[str, Any] = {"vision_config": VISION, "qformer_config": qformer, "text_config": opt.to_dict()}
    if layout == "instructblip":
        model: Any = InstructBlipForConditionalGeneration(InstructBlipConfig(**parts, num_query_tokens=4))
    else:
        model = Blip2ForConditionalGeneration(Blip2Config(**parts, num_query_tokens=4))
    model.save_pretrained(tmp_path, max_shard_size="100KB" if layout == "sharded" else "1GB")
    if layout == "ziya":
        state = load_file(tmp_path / "model.safetensors")
        kept = {name: t for name, t in state.items() if not name.startswith("language_model.")}
        save_file(kept, tmp_path / "model.safetensors")
        config = json.loads((tmp_path / "config.json").read_text())
        write_json(tmp_path / "config.json", {**config, "architectures": ["ZiyaBlip2ForCausalLM"]})
    found = examine_checkpoint(tmp_path, examine_machine())
    counted = sum(p.numel() for name, p in model.named_parameters())
    if layout == "ziya":
        counted -= sum(p.numel() for p in model.language_model.parameters())
    assert found.problems == []
    assert sum(found.facts["parameters"].values()) == counted
    assert found.facts["layout"].startswith({"sharded": "blip-2"}.get(layout, layout))
    if layout == "sharded":
        shard = min(tmp_path.glob("model-*.safetensors"))
        shard.unlink()
        (line,) = examine_checkpoint(tmp_path, examine_machine()).problems
        assert shard.name in line
        assert "not there" in line


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how in ("truncated", "alignment truncated"):
        path = weights if how == "truncated" else folder / ALIGNMENT
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how in ("garbage", "no state"):
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"garbage")
        if how == "no state":
            torch.save([1, 2], folder / "pytorch_model.bin")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "other width":
        stored = json.loads(config.read_text())
        write_json(config, {**stored, "num_query_tokens": 5})
    elif how == "other kind":
        write_json(config, {"model_type": "resnet"})
    else:
        state = load_file(weights)
        state["foreign"] = state.pop("language_projection.bias")
        save_file(state, weights)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("truncated", [r"model\.safetensors: damaged or no weights .*5,000 bytes"]),
        ("alignment truncated", [r"alignment\.safetensors: damaged"]),
        ("no config", [r"no config\.json there"]),
        ("no weights", [r"no weights there; expected model\.safetensors"]),
        ("garbage", [r"pytorch_model\.bin: damaged or no weights .* 7 bytes"]),
        ("no state", [r"pytorch_model\.bin: damaged or no weights \(a pickle, but no mapping"]),
        ("no tokenizer", [r"the tokenizer: "]),
        ("other width", [r"'query_tokens': found \[1, 4, 32\], expected \[1, 5, 32\]"]),
        ("other kind", [r"config\.json: no configuration that we can use"]),
        ("foreign", [r"1 keys missing, such as 'language_projection\.bias'", r"1 keys .* such as 'foreign'"]),
    ],
)
def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path, how: str, expected: list[str]) -> None:
    broken = tmp_path / "c"
    broken.mkdir()
    for file in (folder / "checkpoint").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    damage(broken, how)
    problems = examine(broken)["problems"]
    assert len(problems) == len(expected), problems
    for line, pattern in zip(problems, expected, strict=True):
        assert re.search(pattern, line), line
        assert "\n" not in line


@pytest.mark.slow
def test_a_sound_recipe_is_timed_and_nothing_is_written(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = cli(folder / "recipe.yaml", "--json", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    report = json.loads(done.stdout)
    (source,) = report["recipe"]["data"]
    assert source["by_task_and_lang"] == {"caption/en": 4, "caption/zh": 4, "vqa/en": 4, "vqa/zh": 4}
    assert (source["pictures"], source["decoded"], source["rejects"]) == (4, 4, 0)
    for row in report["recipe"]["stages"]:
        assert row["finite"]
        assert row["seconds_per_step"] > 0
        assert row["seconds"] == pytest.approx(5 * row["seconds_per_step"])
        assert set(row["needed_bytes"]) == {"cpu", "gpu", "ddp 2", "fsdp 2"}
        assert row["needed_bytes"]["ddp 2"] < row["needed_bytes"]["gpu"]
    assert report["problems"] == []


def cli(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ziya_visual", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def spoil(folder: Path, how: str) -> list[str]:
    """Write the bad input and give the changes that point a recipe to it."""
    rows = (folder / "data.jsonl").read_text().splitlines()
    bad = folder / f"{how.replace(' ', '-')}.jsonl"
    if how == "no file":
        return [f"data.path=[{folder}/absent.jsonl]"]
    if how == "no folder table":
        (folder / "empty").mkdir(exist_ok=True)
        return [f"data.path=[{folder}/empty]"]
    if how == "unknown task":
        return ["stages.0.tasks={captoin: 1.0}"]
    if how == "no such task":
        return ["stages.0.tasks={caption: 1.0, dialogue: 1.0}"]
    if how == "no model":
        return ["model.checkpoint=null"]
    if how == "absent picture":
        text = "\n".join(rows).replace("red.png", "gone.png")
    elif how == "broken picture":
        (folder / "broken.png").write_text("no picture")
        text = "\n".join(rows).replace("red.png", "broken.png")
    elif how == "bad row":
        text = "\n".join([*rows, json.dumps({"id": "x", "lang": "en", "task": "caption"})])
    elif how == "not JSON":
        text = "\n".join([*rows, "{"])
    else:
        assert how == "no templates"
        text = "\n".join(rows).replace('"lang": "zh"', '"lang": "xx"')
    bad.write_text(text)
    return [f"data.path=[{bad}]"]


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ("no file", r"absent\.jsonl: cannot be read"),
        ("no folder table", r"captions\.csv not found"),
        ("unknown task", r"stage align: tasks: unknown task 'captoin'; did you mean 'caption'\?"),
        ("no such task", r"stage align: tasks: no record has the task 'dialogue'"),
        ("no model", r"model: give a checkpoint, or both"),
        ("absent picture", r"1 of 4 pictures are not there, the first .*gone\.png"),
        ("broken picture", r"broken\.png: no picture that can be read"),
        ("bad row", r"1 rows are no records, the first at line 17: .*missing fields \['messages'\]"),
        ("not JSON", r"line 17 is not JSON"),
        ("no templates", r"no instruction templates for language 'xx'"),
    ],
)
def test_bad_input_of_a_recipe_is_one_line(
    folder: Path, how: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ziya_visual.train.doctor.recipe._stages", lambda *_: []
    )  # its seconds are not needed
    found = examine_recipe(recipe(folder, *spoil(folder, how)), examine_machine(), gpus=None)
    assert any(re.search(pattern, line) for line in found.problems), found.problems
    assert all("\n" not in line for line in found.problems)
    assert str(found.facts["probe"]).startswith("not probed")


def test_what_cannot_be_used_ends_with_code_2_and_its_line(folder: Path, tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text((folder / "recipe.yaml").read_text().replace("precision", "precison"))
    done = cli(typo, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"] == [
        f"{typo}: unknown key 'precison'; did you mean 'precision'?"
    ]
    assert done.stderr.splitlines() == [f"error: {typo}: unknown key 'precison'; did you mean 'precision'?"]
    assert "not found; give a recipe file" in examine(tmp_path / "absent")["problems"][0]
    assert "go with a recipe file" in examine(tmp_path, gpus=2)["problems"][0]


def test_a_dropout_that_training_turns_off_is_no_fault(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "checkpoint").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["qformer_config"]["attention_probs_dropout_prob"] = 0.1
    write_json(tmp_path / "config.json", config)
    made = recipe(folder, f"model.checkpoint={tmp_path}")
    found = examine_recipe(made, examine_machine(), gpus=None)
    assert not found.problems


@pytest.mark.slow
def test_each_advice_saves_what_it_says(folder: Path) -> None:
    here = examine_machine()
    needed = plan(folder, made=one_stage(folder)).needed(0, "cpu")
    here["ram"]["available_bytes"] = int(0.75 * needed / 0.9)
    found = examine_recipe(one_stage(folder), here, gpus=None)
    (line,) = found.problems
    assert re.search(r"stage base: needs [\d.]+ MiB on cpu", line)
    assert found.facts["probe"].startswith("not probed")
    kinds = {row["change"].split("=")[0].removeprefix("stages.0.") for row in found.advice}
    assert kinds == {"precision", "images_per_step", "texts_per_image", "model.lora.rank"}, found.advice
    for row in found.advice:
        change = row["change"].replace("stages.0", "stages.1")  # where it stands in the file
        after = plan(folder, made=one_stage(folder, change)).needed(0, "cpu")
        assert needed - after == row["saves_bytes"] > 0
        assert row["fits"] == (after <= 0.9 * here["ram"]["available_bytes"])
    assert any(row["fits"] for row in found.advice)


def test_gpus_that_are_too_small_for_one_are_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziya_visual.train.doctor.plan._changes", lambda *_: [])  # other advice takes seconds
    here, made = examine_machine(), plan(folder, made=one_stage(folder))
    one, two = made.needed(0, "gpu"), made.needed(0, "fsdp", 2)
    assert two < one
    here["cuda"] = [{"name": "tiny", "total_bytes": int((one + two) / 2 / 0.9), "free_bytes": 0}]
    found = examine_recipe(made.recipe, here, gpus=1)
    assert found.facts["fits"] == {"cpu": True, "gpu": False}
    row = {"form": "gpu", "stage": "base", "change": "FSDP on 2 GPUs", "saves_bytes": one - two, "fits": True}
    assert found.advice == [row]


def test_a_full_disk_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziya_visual.train.doctor.recipe.disk_free", lambda _: 1000)
    found = examine_recipe(one_stage(folder), examine_machine(), gpus=None)
    (line,) = found.problems
    assert re.fullmatch(r"out: .*/run will take [\d.]+ MiB, 1000 B are free there; give another out=", line)


def test_sharding_is_the_formula_of_the_documentation(folder: Path) -> None:
    bones = skeleton(recipe(folder))
    stage = recipe(folder).stages[0]
    shape = Shape(images=2, row_tokens=20, supervised=8, pairs=((2, 5),))
    memory = dry_step(bones, stage, shape, lora=None, precision="bf16", cached=True, attention="sdpa")
    assert memory.casts > 0
    assert memory.one_process() == memory.states + memory.activations + memory.casts
    whole = (memory.root + 2 * memory.block) // 2
    assert memory.sharded(4, precision="bf16") == memory.states // 4 + whole + memory.activations
    assert Shape(5, 20, 9, ((5, 7), (2, 3))).share(2) == Shape(3, 20, 5, ((3, 7),))


def test_the_machine_is_told_and_a_container_s_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    found = examine_machine()
    assert found["versions"]["torch"] == torch.__version__
    assert found["ram"]["available_bytes"] <= found["ram"]["total_bytes"] == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29 + 2**28}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    assert examine_machine()["ram"] == {"total_bytes": 2**30, "available_bytes": 2**29}


def test_what_is_missing_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=99", "absent-package>=1", "gradio-absent>=2; extra == 'web'"]
    monkeypatch.setattr(machine, "requires", lambda _: lines)
    report = examine(None)
    assert len(report["problems"]) == 2
    assert "expected torch>=99; pip install 'torch>=99'" in report["problems"][0]
    assert "absent-package is not installed" in report["problems"][1]
    row = {"package": "gradio-absent", "for": "web", "install": "pip install 'ziya-visual[web]'"}
    assert row in report["machine"]["missing"]
