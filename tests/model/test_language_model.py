"""``apply-delta``: base + delta is the model that was released so, to the rounding of its dtype."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ziya_visual.core.errors import CheckpointError, ConfigError
from ziya_visual.core.files import read_json, write_json
from ziya_visual.model.build.language_model import apply_delta
from ziya_visual.model.build.weights import open_weights

MORE = 7
WHOLE = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def parts(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Any]:
    """Folders ``base`` (sharded) and ``delta`` (pickles) in float16, and the model that they make.

    As in the authors' ``make_delta``, the delta holds the embeddings and the head whole, and of every other
    tensor the difference. Parametrized with ``()``, every tensor is a difference.
    """
    whole = getattr(request, "param", WHOLE)
    base = tiny.llm_folder(tmp_path / "whole").half()
    rows = base.config.vocab_size
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    (tmp_path / "base").mkdir()
    base.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    base.resize_token_embeddings(rows + MORE)
    model = tiny.shaken(base, 4)
    delta = {}
    for key, tensor in model.state_dict().items():
        lower = torch.zeros_like(tensor)
        lower[: len(before[key])] = before[key]
        delta[key] = tensor if key in whole else tensor - lower
    delta["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as older ones have
    (tmp_path / "delta").mkdir()
    model.config.save_pretrained(tmp_path / "delta")
    tiny.tokenizer().save_pretrained(tmp_path / "delta")
    tiny.pickled(tmp_path / "delta", delta, 2)
    return tmp_path, model


def test_a_delta_of_the_authors_gives_their_model(
    parts: tuple[Path, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = parts
    with caplog.at_level("INFO"):
        summary = apply_delta(
            base=folder / "base", delta=folder / "delta", out=folder / "out", shard_bytes=30_000
        )
    assert "taken whole from the delta: lm_head.weight, model.embed_tokens.weight" in caplog.text
    assert summary["taken whole"] == 2
    assert summary["summed"] == len(model.state_dict()) - 2
    assert len(list((folder / "out").glob("model-*.safetensors"))) > 3
    restored, info = AutoModelForCausalLM.from_pretrained(folder / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert restored.dtype == torch.float16
    assert restored.config.vocab_size == model.config.vocab_size
    for key, tensor in model.state_dict().items():
        assert (restored.state_dict()[key].float() - tensor.float()).abs().max() <= 2e-3, key
    for key in WHOLE:
        assert torch.equal(restored.state_dict()[key], model.state_dict()[key]), key
    assert len(AutoTokenizer.from_pretrained(folder / "out")) == 280
    assert not list((folder / "out").glob("*.bin*"))
    again = apply_delta(base=folder / "base", delta=folder / "delta", out=folder / "again")
    assert again["sha256"] == summary["sha256"], "the checksum does not depend on the shards"


@pytest.mark.parametrize("parts", [()], indirect=True)
def test_a_delta_of_every_tensor_is_summed_when_nothing_is_whole(parts: tuple[Path, Any]) -> None:
    folder, model = parts
    paths = {"base": folder / "base", "delta": folder / "delta"}
    assert apply_delta(**paths, out=folder / "out", whole=())["taken whole"] == 0
    restored = AutoModelForCausalLM.from_pretrained(folder / "out").state_dict()
    for key, tensor in model.state_dict().items():
        assert (restored[key].float() - tensor.float()).abs().max() <= 2e-3, key
    assert torch.equal(restored["lm_head.weight"][-MORE:], model.lm_head.weight[-MORE:]), "new rows"
    state = {key: entry.read() for key, entry in open_weights(folder / "base").items()}
    (folder / "larger").mkdir()
    write_json(folder / "larger" / "config.json", read_json(folder / "base" / "config.json"))
    save_file(state | {"lm_head.weight": torch.zeros(300, 48)}, folder / "larger" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is of shape \[287, 48\]"):
        apply_delta(base=folder / "larger", delta=folder / "delta", out=folder / "none", whole=())
    with pytest.raises(ConfigError, match="--whole norms: no tensor of the delta has this name"):
        apply_delta(**paths, out=folder / "none", whole=("norms",))


def test_a_sum_that_is_not_finite_is_refused(parts: tuple[Path, Any]) -> None:
    folder, _ = parts
    state = {key: entry.read() for key, entry in open_weights(folder / "base").items()}
    for file in (folder / "base").glob("model*"):
        file.unlink()
    state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], 60000.0)
    state["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(state, folder / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: base plus delta is not finite"):
        apply_delta(base=folder / "base", delta=folder / "delta", out=folder / "out")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.update({"model.norm.weight": torch.zeros(9)}),
            r"model\.norm\.weight is of shape \[48\]",
        ),
        (
            lambda s: s.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(60, 48)}),
            r"up_proj\.weight is of shape \[64, 48\], expected \[60, 48\]",
        ),
        (lambda s: s.pop("model.norm.weight"), r"1 keys missing \(such as model\.norm\.weight\)"),
        (lambda s: s.update({"more": torch.zeros(1)}), r"1 keys unexpected \(such as more\)"),
    ],
)
def test_parts_that_do_not_fit(parts: tuple[Path, Any], change: Any, said: str) -> None:
    folder, _ = parts
    state = {key: entry.read() for key, entry in open_weights(folder / "base").items()}
    for file in (folder / "base").glob("model*"):
        file.unlink()
    change(state)
    save_file(state, folder / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match=said) as caught:
        apply_delta(base=folder / "base", delta=folder / "delta", out=folder / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["base", "delta", "whole"]


def test_a_vocabulary_that_is_no_number(parts: tuple[Path, Any]) -> None:
    folder, _ = parts
    settings = read_json(folder / "base" / "config.json")
    write_json(folder / "base" / "config.json", {**settings, "vocab_size": None})
    with pytest.raises(CheckpointError, match=r"config\.json: vocab_size is None, expected a number"):
        apply_delta(base=folder / "base", delta=folder / "delta", out=folder / "out")
