"""Model soups: equal to averages by hand, to the bit where there is nothing to average, and played like any model."""

import json
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from chat_models import saved
from language_models import batch_of, logprobs, made, moved, same
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from selfplay.models.load import resolve
from selfplay.soup import main

LINEAR = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32, "up_proj": 3}},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "published pissa": {"init_lora_weights": "pissa"},
    "module": {"modules_to_save": ["norm", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "tokens": {"trainable_token_indices": [5, 7]},
    "bias": {"lora_bias": True, "target_modules": ["q_proj"], "bias": "lora_only"},
}
KUHN = ("game=kuhn", "regularizer=none", "eval=none", "episodes=4", "update.optimizer.lr=0.01", "steps=1")


def checkpoint(folder: Path, seed: int, path: str = "asset:tiny", lora: dict[str, Any] | None = None) -> Path:
    """What a run leaves of a model that was trained."""
    policy = made(path=path, lora=None if lora is None else {**LINEAR, **lora})
    moved(policy, seed)
    folder.mkdir()
    policy.save(folder)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> list[Path]:
    return [checkpoint(tmp_path / f"whole{seed}", seed) for seed in range(3)]


def souped(target: Path, *sources: Path, weights: Sequence[float] = ()) -> Path:
    main([*map(str, sources), "--out", str(target), *(["--weights", *map(str, weights)] if weights else [])])
    return target


def told(capsys: pytest.CaptureFixture[str], words: str, *args: object) -> None:
    """The command ends with one sentence, and has written nothing."""
    target = Path(str(args[args.index("--out") + 1])) if "--out" in args else None
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and said.count("\n") == 1
    assert re.search(words, said), said
    if target is not None:
        assert not target.exists() and not list(target.parent.glob(".writing-*"))


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


# --- Whole models -----------------------------------------------------------------------------------------------------


def test_a_soup_of_one_is_itself(whole: list[Path], tmp_path: Path) -> None:
    for name, sources, weights in ("one", whole[:1], ()), ("first", whole, (2, 0, 0)):
        out = souped(tmp_path / name, *sources, weights=weights)
        files = {path.name for path in whole[0].iterdir()}
        assert {path.name for path in out.iterdir()} == files | {"soup.json", "SHA256SUMS"}
        assert all((out / file).read_bytes() == (whole[0] / file).read_bytes() for file in files)


def test_a_soup_of_the_same_is_the_same(whole: list[Path], tmp_path: Path) -> None:
    out = souped(tmp_path / "out", *whole[:1] * 3, weights=(1, 2, 4))
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_a_weight_of_0_leaves_a_model_out(whole: list[Path], tmp_path: Path) -> None:
    file = whole[2] / "model.safetensors"
    save_file({n: torch.full_like(v, torch.nan) for n, v in load_file(file).items()}, file, metadata={"format": "pt"})
    without, out = souped(tmp_path / "two", *whole[:2]), souped(tmp_path / "out", *whole, weights=(1, 1, 0))
    assert (out / "model.safetensors").read_bytes() == (without / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("weights", "shares"), [((), (0.5, 0.5)), ((3, 1), (0.75, 0.25))])
def test_a_soup_of_two_is_their_average(
    weights: tuple[float, ...], shares: tuple[float, float], whole: list[Path], tmp_path: Path
) -> None:
    out = souped(tmp_path / "out", *whole[:2], weights=weights)
    one, two, mean = map(weights_of, (*whole[:2], out))
    assert one.keys() == two.keys() == mean.keys() and len(mean) > 10
    for name, value in mean.items():
        by_hand = (shares[0] * one[name].double() + shares[1] * two[name].double()).float()
        assert same(value, by_hand) and value.dtype == one[name].dtype, name
    policy, other = made(path=str(out)), made()
    with torch.no_grad():
        for name, p in other.model.named_parameters():
            models = [AutoModelForCausalLM.from_pretrained(folder) for folder in whole[:2]]
            p.copy_(sum(share * m.get_parameter(name) for share, m in zip(shares, models, strict=True)))  # type: ignore[arg-type]
    batch = batch_of(other)
    torch.testing.assert_close(logprobs(policy, batch), logprobs(other, batch), atol=1e-5, rtol=1e-5)
    assert json.loads((out / "soup.json").read_text()) == {
        "soup": [{"folder": str(f), "weight": w} for f, w in zip(whole, shares, strict=False)]
    }


def test_files_may_be_cut_elsewhere(whole: list[Path], tmp_path: Path) -> None:
    """Of the first, as those of large models are; and a soup is a source like any other."""
    cut = tmp_path / "cut"
    shutil.copytree(whole[0], cut)
    (cut / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(whole[0]).save_pretrained(cut, max_shard_size="200KB")
    assert len(list(cut.glob("*.safetensors"))) > 2
    plain, out = souped(tmp_path / "plain", *whole[:2]), souped(tmp_path / "out", cut, whole[1])
    assert {f.name: set(load_file(f)) for f in cut.glob("*.safetensors")} == {
        f.name: set(load_file(f)) for f in out.glob("*.safetensors")
    }
    one, other = weights_of(plain), weights_of(out)
    assert one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    models = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (plain, out)]
    assert all(same(value, models[1][name]) for name, value in models[0].items())
    again = souped(tmp_path / "again", out, plain)
    assert all(same(value, one[name]) for name, value in weights_of(again).items())


def test_bfloat16_is_rounded_once(whole: list[Path], tmp_path: Path) -> None:
    for folder in whole:
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    held = [weights_of(folder) for folder in whole]
    for name, value in weights_of(souped(tmp_path / "out", *whole)).items():
        exact = sum(part[name].double() for part in held) / 3
        assert value.dtype == torch.bfloat16 and float((value.double() - exact).abs().max()) <= float(  # type: ignore[union-attr]
            (exact.to(torch.bfloat16).double() - exact).abs().max()  # type: ignore[union-attr]
        )


# --- Adapters ---------------------------------------------------------------------------------------------------------


def merged(base: str, folder: Path) -> dict[str, Tensor]:
    """The weights of the base model with the adapter in them: peft's account, nothing of ours."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        found: dict[str, Tensor] = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    return found


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_are_averaged_as_what_they_add(kind: str, tmp_path: Path) -> None:
    base = "asset:tiny"
    if kind == "bias":
        saved("qwen2", tmp_path / "base")
        base = str(tmp_path / "base")
    one, two = (checkpoint(tmp_path / f"a{seed}", seed, base, ADAPTERS[kind]) for seed in range(2))
    out = souped(tmp_path / "out", one, two, weights=(1, 3))
    parts = [merged(resolve(base), folder) for folder in (one, two)]
    for name, value in merged(resolve(base), out).items():
        torch.testing.assert_close(value, 0.25 * parts[0][name] + 0.75 * parts[1][name], atol=2e-6, rtol=1e-5)
    policy = made(path=str(out))
    assert policy.lora and policy.adapter is not None
    assert policy.adapter.config.r == 2 * json.loads((one / "adapter_config.json").read_text())["r"]
    batch = batch_of(policy)
    assert not same(logprobs(policy, batch), logprobs(made(path=str(one)), batch))


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}, {"trainable_token_indices": [5, 7]}])
def test_an_adapter_alone_is_itself(lora: dict[str, Any], tmp_path: Path) -> None:
    one = checkpoint(tmp_path / "one", 1, lora=lora)
    out = souped(tmp_path / "out", one)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / name).read_bytes() == (one / name).read_bytes()
    batch = batch_of(made(path=str(one)))
    assert same(logprobs(made(path=str(out)), batch), logprobs(made(path=str(one)), batch))


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ({}, {"r": 8}, "r is 4 in the first and 8 in the second"),
        ({}, {"lora_alpha": 16}, "lora_alpha is 8 in the first and 16 in the second"),
        ({}, {"target_modules": ["q_proj"]}, "target_modules is .* in the first and"),
        ({"use_dora": True}, {"use_dora": True}, "lora_magnitude_vector.*is not linear.*; merge each adapter"),
    ],
)
def test_adapters_that_have_no_exact_average(
    here: dict[str, Any], there: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = checkpoint(tmp_path / "one", 1, lora=here), checkpoint(tmp_path / "two", 2, lora=there)
    told(capsys, words, one, two, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("base_model_name_or_path", "another/base", "base_model_name_or_path is .*tiny in the first and another/base"),
        ("revision", "v2", "revision is None in the first and v2 in the second"),
    ],
)
def test_adapters_over_another_base(
    option: str, value: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (checkpoint(tmp_path / name, 1, lora={}) for name in ("one", "two"))
    change(two / "adapter_config.json", **{option: value})
    told(capsys, words, one, two, "--out", tmp_path / "out")


def test_adapters_that_are_no_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = checkpoint(tmp_path / "one", 1, lora={})
    for options, words in (
        ({"init_lora_weights": "pissa"}, "an adapter with init_lora_weights=pissa, .*; merge each"),
        ({"target_parameters": ["experts.gate"], "init_lora_weights": True}, "an adapter with target_parameters"),
    ):
        change(one / "adapter_config.json", **options)
        told(capsys, words, one, one, "--out", tmp_path / "out")


# --- What cannot be averaged ------------------------------------------------------------------------------------------


def change(file: Path, **options: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def test_other_shapes_and_tensors(whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = whole[1] / "model.safetensors", ("--out", tmp_path / "out")
    held = load_file(file)
    name = sorted(held)[0]
    wider = torch.cat([held[name], held[name]])
    for state, words in (
        ({**held, name: wider}, f"{name} is F32 .* in the first and F32 .* in the second"),
        ({**held, name: held[name].half()}, f"{name} is F32 .* in the first and F16 .*saved in one precision"),
        ({**held, "more": wider}, "more is missing in the first and F32 .* in the second"),
        ({k: v for k, v in held.items() if k != name}, f"{name} is F32 .* in the first and missing in the second"),
    ):
        save_file(state, file, metadata={"format": "pt"})
        told(capsys, f"hold different tensors .{words}", *whole[:2], *out)
    for folder, number in zip(whole, (1, 2, 2), strict=True):
        save_file({**held, "count": torch.tensor([number])}, folder / "model.safetensors", metadata={"format": "pt"})
    told(capsys, "count of .* holds integers that differ", *whole[:2], *out)
    assert int(weights_of(souped(tmp_path / "counted", *whole[1:]))["count"]) == 2
    file.write_bytes(b"broken")
    told(capsys, "model.safetensors is broken", *whole[:2], *out)
    file.unlink()
    told(capsys, r"has no model\*.safetensors; save it", *whole[:2], *out)


def test_other_architectures(whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("qwen2", tmp_path / "qwen2")
    out = ("--out", tmp_path / "out")
    told(
        capsys,
        "have different architectures .* is .* in the first and .* in the second",
        whole[0],
        tmp_path / "qwen2",
        *out,
    )
    change(whole[1] / "config.json", hidden_size=99)
    told(capsys, r"different architectures \(hidden_size is \d+ in the first and 99 in the second\)", *whole[:2], *out)
    change(whole[2] / "config.json", quantization_config={"bits": 4})
    told(capsys, "has quantised weights", whole[0], whole[2], *out)
    adapter = checkpoint(tmp_path / "adapter", 1, lora={})
    told(capsys, "one of .* is a whole model and the other an adapter; merge", whole[0], adapter, *out)
    (whole[1] / "config.json").write_text("[]")
    told(capsys, "config.json is not a config", *whole[:2], *out)
    (whole[1] / "config.json").write_text("{")
    told(capsys, "config.json cannot be read", *whole[:2], *out)


@pytest.mark.parametrize("what", ["chat template", "vocabulary", "pipeline", "set of special tokens"])
def test_other_tokenizers(what: str, whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = whole[1] / "tokenizer.json"
    pipeline = json.loads(file.read_text())
    if what == "chat template":
        template = whole[1] / "chat_template.jinja"
        template.write_text(template.read_text() + " ")
    elif what == "vocabulary":
        words = pipeline["model"]["vocab"]
        one, two = list(words)[-2:]
        words[one], words[two] = words[two], words[one]
    elif what == "pipeline":
        pipeline["normalizer"] = {"type": "Lowercase"}
    else:
        change(whole[1] / "tokenizer_config.json", unk_token=list(pipeline["model"]["vocab"])[-1])
    file.write_text(json.dumps(pipeline))
    words_ = rf"have different tokenizers \(the {what} differs\), .*; give models with the same tokenizer"
    told(capsys, words_, *whole[:2], "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1,), "--weights has 1 numbers for 2 models; give one per model"),
        ((2, -1), "--weights is 2 -1; give numbers of at least 0"),
        ((0, 0), "--weights is 0 0; give"),
        ((1, "nan"), "--weights is 1 nan; give"),
        ((1, "inf"), "--weights is 1 inf; give"),
    ],
)
def test_weights_are_numbers_from_0_on(
    weights: tuple[object, ...], words: str, whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, words, *whole[:2], "--out", tmp_path / "out", "--weights", *weights)


def test_where_it_is_written(whole: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    souped(tmp_path / "deep" / "er" / "out", whole[0])
    with pytest.raises(SystemExit):
        main([str(whole[0]), "--out", str(whole[1])])
    assert f"{whole[1]} already exists; choose another --out" in capsys.readouterr().err
    told(capsys, "cannot be written", whole[0], "--out", whole[0] / "config.json" / "out")
    told(
        capsys, "nothing is not a run, a sweep or a folder with a model", tmp_path / "nothing", "--out", tmp_path / "x"
    )


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_runs_are_souped_and_played(player: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep's folder stands for its runs; what is made of them is trained on."""
    runs = [cli.finished(tmp_path / "sweep" / str(s), *KUHN, f"player={player}", f"seed={s}") for s in range(2)]
    out = souped(tmp_path / "out", tmp_path / "sweep")
    assert f"player.path={out}" in capsys.readouterr().out
    last = [run / "checkpoints" / "step-000001" for run in runs]
    by_hand = souped(tmp_path / "hand", *last)
    assert all(same(value, weights_of(by_hand)[name]) for name, value in weights_of(out).items())
    assert not (out / "state.pt").exists()
    played = cli.finished(tmp_path / "played", *KUHN, "player=hf", f"player.path={out}", "player.max_tokens=8")
    assert len(cli.metrics(played)) == 1


def test_runs_that_cannot_be_souped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli.finished(tmp_path / "run", *KUHN, "player=tabular")
    out = ("--out", tmp_path / "out")
    told(capsys, r"step-000001 is a table \(player=tabular\), and only language models can be averaged", run, *out)
    change(run / "summary.json", status="failed")
    told(capsys, rf"{run} is not a finished run \(status: failed\); resume it with resume={run}, or", run, *out)
    (run / "summary.json").unlink()
    told(capsys, r"is not a finished run \(status: not written\)", run, *out)


def test_a_flipped_bit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli.finished(tmp_path / "run", *KUHN, "player=tiny")
    file = run / "checkpoints" / "step-000001" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    told(capsys, "model.safetensors is broken .its digest", run, "--out", tmp_path / "out")
