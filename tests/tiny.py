"""Random tiny checkpoints in the real formats, written by the stock classes."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ziya_visual.core.files import read_json, write_json

SIDE, QUERIES, WIDTH = 16, 4, 48
TEXTS = [
    "a red ring above a blue square",
    "what color is the ring?",
    "图中有几个红色的圆环？",
    "两个蓝色方块",
]
QUESTION = "what color is the ring? 什么颜色"
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "initializer_range": 0.02,
}
QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}


def tokenizer(*, image: bool = False) -> Any:
    """Train a byte-level tokenizer; ``image`` adds ``<image>`` as stock processors do."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if image:
        made.add_tokens(["<image>"], special_tokens=True)
    return made


def bert_tokenizer(extra: str = "") -> Any:
    """Build a character tokenizer that puts ``[CLS]`` and ``[SEP]`` around every text, as BERT does."""
    letters = sorted(set("".join([*TEXTS, extra])) - {" "})
    words = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def lm_config(kind: str, vocabulary: int, width: int = WIDTH) -> Any:
    """Return the config of a tiny ``opt`` (with tied embeddings), ``llama`` or ``qwen2``."""
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    common = {"vocab_size": vocabulary, "hidden_size": width, **HEADS, **ends}
    if kind == "opt":
        return OPTConfig(ffn_dim=64, word_embed_proj_dim=width, dropout=0.0, **common)
    kv = {"num_key_value_heads": 2}
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](intermediate_size=64, **kv, **common)


def shaken(model: Any, seed: int = 0) -> Any:
    """Move every weight far from its initial value, so that a missing weight shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model.eval()


def llm_folder(folder: Path, kind: str = "llama", *, width: int = WIDTH, dtype: Any = None) -> Any:
    """Write the folder of a language model, and return the model."""
    words = tokenizer()
    kinds = {"opt": OPTForCausalLM, "llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}
    torch.manual_seed(1)
    model = shaken(kinds[kind](lm_config(kind, len(words), width)), 1).to(dtype or torch.float32)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def blip2(kind: str = "llama", **changes: Any) -> Any:
    """Build a stock BLIP-2 with a language model of the given kind."""
    words = tokenizer(image=True)
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(**QFORMER).to_dict(),
        text_config=lm_config(kind, len(words)).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        **changes,
    )
    return shaken(Blip2ForConditionalGeneration(config))


def blip2_folder(folder: Path, kind: str = "llama", **saving: Any) -> Any:
    """Write the folder of a stock BLIP-2, and return the model."""
    model = blip2(kind)
    model.save_pretrained(folder, **saving)
    tokenizer(image=True).save_pretrained(folder)
    return model


def instructblip_folder(folder: Path, kind: str = "llama") -> Any:
    """Write a stock InstructBLIP folder with its Q-Former tokenizer, and return the model."""
    words, reader = tokenizer(image=True), bert_tokenizer()
    torch.manual_seed(0)
    config = InstructBlipConfig(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(reader)},
        text_config=lm_config(kind, len(words)).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = shaken(InstructBlipForConditionalGeneration(config))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    reader.save_pretrained(folder / "qformer_tokenizer")
    return model


def retrieval_folder(folder: Path) -> Any:
    """Write a stock retrieval folder with a BERT tokenizer, and return the model."""
    reader = bert_tokenizer()
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(reader), "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
    )
    model = shaken(Blip2ForImageTextRetrieval(config))
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return model


def ziya_folder(folder: Path) -> Any:
    """Write the published Ziya layout (one pickle, no language model), and return the model."""
    model = blip2("llama")
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("language_model.")}
    folder.mkdir(parents=True)
    torch.save(state, folder / "pytorch_model.bin")
    model.config.save_pretrained(folder)
    names = {"human_name": "<human>", "assistant_name": "<bot>", "prompt_prefix": ""}
    settings = read_json(folder / "config.json")
    settings |= {"architectures": ["ZiyaBlip2ForCausalLM"], "model_type": "blip-2", "image_token_index": None}
    settings["dtype"] = "float32"
    write_json(folder / "config.json", settings | names)
    return model


def pickled(folder: Path, state: dict[str, Any], shards: int) -> None:
    """Write weights as several ``.bin`` files with an index, as older checkpoints have them."""
    mapped = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(state.items())[number::shards])
        torch.save(part, folder / name)
        mapped |= dict.fromkeys(part, name)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": mapped})


def picture(seed: int = 0) -> Image.Image:
    """Return an image of coloured noise."""
    noise = torch.randint(0, 256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())
