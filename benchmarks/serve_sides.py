"""The checkpoint of ``benchmarks/serve.py`` and both its servers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from train_setting import QUERIES, SIDE, config
from transformers import PreTrainedTokenizerFast

from ziya_visual.model.checkpoint import save_checkpoint
from ziya_visual.model.network import ZiyaVisualModel
from ziya_visual.model.processor import ZiyaProcessor, add_chat_template


def build(folder: Path) -> None:
    """Write the checkpoints. The end token's row is zero, so that its logit is never the highest."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<image>": 3}
    vocabulary |= {f"w{number}": number for number in range(4, 32_000)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w4"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "w4"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    add_chat_template(tokenizer)
    torch.manual_seed(0)
    model = ZiyaVisualModel(config())
    model.config.text_config.eos_token_id = 2
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = 0
        model.language_projection.weight.normal_(std=0.2)  # what is seen changes what is said
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    processor = ZiyaProcessor(tokenizer, image_size=SIDE, num_query_tokens=QUERIES)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        save_checkpoint(folder / name, model=model.to(dtype), alignment=None, processor=processor)


@contextlib.contextmanager
def server(command: Sequence[str], home: Path) -> Iterator[str]:
    """Run a server and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    log_path = home / f"{port}.log"
    with log_path.open("w") as log:
        running = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(900):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}/health", timeout=1).status_code == 200:
                    break
            if running.poll() is not None:
                sys.exit(log_path.read_text()[-3000:])
            time.sleep(0.2)
        yield address
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def ours(folder: Path, dtype: str) -> list[str]:
    saved = folder / ("bfloat16" if dtype == "int8" else dtype)
    return [str(Path(sys.executable).with_name("ziya-visual")), "serve", str(saved), "--dtype", dtype]


def theirs(folder: Path, dtype: str, attention: str) -> list[str]:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder / dtype)]
    more = ["--trust-remote-code", "--device", "cpu", "--dtype", dtype, "--attn-implementation", attention]
    return [*command, *more]
