"""Opening a checkpoint of about 1.1 billion parameters in bfloat16: ours against the stock class; and `init`.

    python benchmarks/load.py [--layers 12] [--rounds 5] [--folder DIR]

Each opening has a process of its own; ours and stock take turns, the files are in the page cache, both open
network and processor; what the imports left behind is out of the garbage collector's sight, for a full
collection (0.2 s) would fall by chance into one side's time. The table shows seconds of the opening alone,
and the peak of resident memory once every weight has been read. ``with alignment`` is ours on the same folder
with an alignment file, which stock does not read. ``init`` composes the folder anew with its language model
taken from a folder of its own; its peak is of memory that is no mapped file.
"""

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ziya_visual.core.files import write_json

ROLES = ("stock", "ours", "with alignment")
TOKENS = 32000


def build(folder: Path, layers: int) -> None:
    """Write the folders ``plain`` (stock), ``aligned`` (with an alignment file) and ``lm``."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import (
        Blip2Config,
        Blip2Processor,
        BlipImageProcessorPil,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )

    from ziya_visual.model.build.compose import new_alignment
    from ziya_visual.model.build.weights import Entry, write_weights
    from ziya_visual.model.checkpoint import save_alignment
    from ziya_visual.model.network import ZiyaVisualModel

    def words(image: bool) -> Any:
        vocabulary = {f"word{number}": number for number in range(TOKENS - 3)}
        vocabulary |= {"<s>": TOKENS - 3, "</s>": TOKENS - 2, "<unk>": TOKENS - 1}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        if image:
            tokenizer.add_tokens(["<image>"], special_tokens=True)
        return tokenizer

    def lm(vocabulary: int) -> Any:
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=layers,
            num_attention_heads=16,
            dtype="bfloat16",
        )

    config = Blip2Config(
        vision_config={"num_hidden_layers": layers},
        qformer_config={"vocab_size": TOKENS + 1, "pad_token_id": None},
        text_config=lm(TOKENS + 1).to_dict(),
        image_token_index=TOKENS,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = ZiyaVisualModel(config)
    block = (0.02 * torch.randn(1 << 20)).bfloat16()

    def entry(key: str, shape: torch.Size) -> Entry:
        count = shape.numel()

        def read() -> torch.Tensor:
            return block.repeat(-(-count // len(block)))[:count].reshape(shape)

        return Entry(folder, key, tuple(shape), torch.bfloat16, read)

    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    plain, inner = folder / "plain", folder / "lm"
    for path in (plain, inner):
        path.mkdir(parents=True)
    write_weights(plain, {key: entry(key, shape) for key, shape in shapes.items()}, shard_bytes=10**9)
    config.save_pretrained(plain)
    Blip2Processor(BlipImageProcessorPil(), words(True), num_query_tokens=32).save_pretrained(plain)
    own = {
        key.removeprefix("language_model."): torch.Size((TOKENS, *shape[1:]))
        if shape[0] == TOKENS + 1
        else shape
        for key, shape in shapes.items()
        if key.startswith("language_model.")
    }
    write_weights(inner, {key: entry(key, shape) for key, shape in own.items()}, shard_bytes=10**9)
    lm(TOKENS).save_pretrained(inner)
    words(False).save_pretrained(inner)
    aligned = folder / "aligned"
    aligned.mkdir()
    for file in plain.iterdir():
        (aligned / file.name).hardlink_to(file)
    save_alignment(aligned, new_alignment(config.qformer_config, projection_size=256, seed=0))
    print(f"{sum(shape.numel() for shape in shapes.values()):,} parameters")


def child(role: str, folder: Path) -> None:
    """Open a checkpoint once and print the seconds and peak megabytes."""
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    from ziya_visual.model.build.init import init
    from ziya_visual.model.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    if role == "init":
        anonymous = [0]
        threading.Thread(target=_watch, args=(anonymous,), daemon=True).start()
        started = time.perf_counter()
        init(bridge=folder / "plain", llm=folder / "lm", out=folder / "new", shard_bytes=10**9)
        seconds, peak = time.perf_counter() - started, max(anonymous)
    else:
        started = time.perf_counter()
        if role == "stock":  # both give network and processor
            held: Any = (
                Blip2ForConditionalGeneration.from_pretrained(folder / "plain").eval(),
                Blip2Processor.from_pretrained(folder / "plain"),
            )
        else:
            held = load_checkpoint(folder / ("plain" if role == "ours" else "aligned"))
        seconds = time.perf_counter() - started
        for module in held[:-1]:
            for parameter in module.parameters() if module is not None else ():
                parameter.sum()  # a mapped page counts only when it is touched
        peak = _status("VmHWM")
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024}))


def _status(name: str) -> int:
    """Return a memory size of this process in kilobytes, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _watch(peaks: list[int]) -> None:
    """Record the peak of anonymous memory in kilobytes."""
    while True:
        peaks[0] = max(peaks[0], _status("RssAnon"))
        time.sleep(0.005)


def run(role: str, folder: Path) -> dict[str, float]:
    """Run a child process and return its numbers."""
    process = subprocess.run(
        [sys.executable, __file__, "--child", role, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(process.stderr)
    return dict(json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder)
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        build(folder, options.layers)
        for file in folder.rglob("*.safetensors"):
            file.read_bytes()  # into the page cache
        rounds = [{role: run(role, folder) for role in ROLES} for _ in range(options.rounds)]
        init = run("init", folder)
        weights = sum(file.stat().st_size for file in (folder / "new").glob("*.safetensors")) / 2**20
    finally:
        shutil.rmtree(folder)
    table = {
        role: {
            name: statistics.median(entry[role][name] for entry in rounds) for name in ("seconds", "peak_mb")
        }
        for role in ROLES
    }
    result = {
        "layers": options.layers,
        "rounds": options.rounds,
        **table,
        "peak_ratio": statistics.median(
            entry["ours"]["peak_mb"] / entry["stock"]["peak_mb"] for entry in rounds
        ),
        "time_ratio": statistics.median(
            entry["ours"]["seconds"] / entry["stock"]["seconds"] for entry in rounds
        ),
        "init": {**init, "weights_mb": weights},
    }
    write_json(Path("runs/bench/load.json"), result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
