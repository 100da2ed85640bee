"""The command: it takes a run's options, prints a table and a verdict, and loads nothing."""

import os
import re

import pytest

from selfplay.memory import command

BIG = ("player=hf", "--parameters", "8e9", "--layers", "32", "--hidden", "4096")


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    command.main(args)
    return capsys.readouterr().out


def sums(text: str) -> list[float]:
    [row] = re.findall(r"^\W*sum\W(.*)$", text, re.MULTILINE)
    return [float(number) for number in re.findall(r"[\d.]+", row)]


def test_a_small_run_fits(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "device.memory=8")
    assert "fits: it needs" in text and "does not" not in text and "the 8.0 GiB given" in text
    assert "learner: 0.9 M parameters, 0.9 M trained" in text
    [told] = re.findall(r"^peak: ([\d.]+) GiB while (\w+); its largest part is (\w+)", text, re.MULTILINE)
    assert float(told[0]) == pytest.approx(max(sums(text)), abs=0.01) and told[1:] == ("updating", "activations")


def test_a_large_run_does_not_and_is_told_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *BIG, "device.memory=80", "device=cuda")
    assert "does not fit" in text and "8,000.0 M parameters" in text
    [told] = re.findall(r"^would fit with (.*): ([\d.]+) GiB$", text, re.MULTILINE)
    assert float(told[1]) <= 72
    options = [*re.findall(r"'([^']*)'", told[0]), *re.sub(r"'[^']*'", "", told[0]).split()]
    assert "does not fit" not in said(capsys, *BIG, "device.memory=80", "device=cuda", *options)


def test_options_change_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    whole = sums(said(capsys, *BIG, "--memory", "80"))
    split = sums(said(capsys, *BIG, "--memory=80", "parallel=fsdp", "processes=8"))
    assert split[2] < whole[2] / 2 and split[0] > whole[0] / 2
    assert sums(said(capsys, *BIG, "device.memory=80", "--prompt", "2000"))[2] > whole[2]


def test_a_table_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs no memory worth counting" in said(capsys, "player=tabular", "game=kuhn")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("player=hf", "--layers", "4"), "needs --layers and --hidden"),
        (("resume=outputs/x",), "leave out resume"),
        (("gamma=lsp",), "Could not override 'gamma'"),
        (("player.batch_size=0",), "player.batch_size is 0"),
        (("player=hf",), "player.path"),
        (("--processes", "0"), "processes is 0"),
        (("player=nothing",), "player has no choice 'nothing'"),
    ],
)
def test_mistakes(args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(args)
    assert ended.value.code != 0 and words in capsys.readouterr().err


def test_hub_ids_are_looked_up_where_a_hub_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a run its model may not be in the local cache yet."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    command.main(["player=tiny", "reward=none"])
    assert "HF_HUB_OFFLINE" not in os.environ
