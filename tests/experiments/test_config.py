"""What is common to the command lines: seeds, and help for every option."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import tyro

from experiments import completion, decisions, labels, report, transport
from experiments._config import Common
from experiments._record import settings

COMMANDS = {module.__name__: module.main for module in (completion, decisions, labels, report, transport)}


@dataclass(frozen=True)
class Small(Common):
    seed: tuple[int, ...] = (4, 7)


def parsed(*arguments: str) -> Small:
    return tyro.cli(Small, args=arguments)


def test_seeds_are_so_many_in_a_row() -> None:
    assert parsed().seed == (4, 7)
    assert parsed("--seed", "1", "3").seed == (1, 3)
    assert parsed("--seeds", "3").seed == (4, 5, 6)
    assert parsed("--seeds", "2", "--seed", "0").seed == (0, 1)


def test_a_run_is_the_same_however_its_seeds_were_said() -> None:
    assert settings(parsed("--seeds", "2", "--seed", "0")) == settings(parsed("--seed", "0", "1")) == {"seed": [0, 1]}


@pytest.mark.parametrize("arguments", [("--seeds", "0"), ("--seed",)])
def test_no_seed_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert "expected" in "".join(capsys.readouterr())


def unexplained(capsys: pytest.CaptureFixture[str], command: Callable, *arguments: str) -> list[str]:
    """The options where no sentence stands before the default, by their last word there (dashes are a frame)."""
    with pytest.raises(SystemExit):
        command([*arguments, "--help"])
    last = re.findall(r"([^\s│─╮]+)[\s│]+\(default:", capsys.readouterr().out)
    assert last
    return [word for word in last if word.strip("-") and not word.endswith((".", ".)"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert unexplained(capsys, COMMANDS[name]) == []


@pytest.mark.parametrize("net", ["plain", "unet"])
def test_the_help_explains_every_option_of_a_net(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert unexplained(capsys, completion.main, net) == []


def test_the_helper_notices_an_option_without_help(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Bare:
        bare: int = 1

    assert unexplained(capsys, lambda arguments: tyro.cli(Bare, args=arguments)) == ["INT"]
