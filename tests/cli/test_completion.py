"""Scripts for three shells: each knows every command and flag, and completes what is typed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from idservice import errors
from idservice.cli import main
from idservice.cli.commands import COMMANDS
from idservice.cli.completion import SHELLS
from tests.deploy.conftest import skipped_but_not_in_ci


def script(shell: str) -> str:
    return "\n".join(SHELLS[shell]())


def helps(capsys: pytest.CaptureFixture[str], command: str) -> set[str]:
    """Return the flags that the help of a command names."""
    words = [*command.split(), "--help"]
    with pytest.raises(SystemExit):
        main._parser(*words).parse_args(words)
    return {*re.findall(r"^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)}


def ask(program: str, *arguments: str, folder: Path) -> list[str]:
    """Return the words that a shell prints."""
    path = shutil.which(program)
    if path is None:
        skipped_but_not_in_ci(f"{program} is not installed")
    assert path is not None
    done = subprocess.run(
        [path, *arguments], cwd=folder, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert main.main(["completion", shell]) == 0
    assert capsys.readouterr().out == script(shell) + "\n"


@pytest.mark.parametrize("shell", ["ksh", ""])
def test_another_shell_is_refused_with_those_that_there_are(shell: str) -> None:
    with pytest.raises(errors.Usage, match=r"bash.*zsh.*fish"):
        main._parser("completion").parse_args(["completion", shell])


TYPED = [
    (["se"], {"serve", "set"}),
    (["serve", "--store"], {"--store", "--store-key-file", "--store-wait"}),
    (["serve", "--log", ""], {"auto", "json", "text"}),
    (["create", "orders", "--adopt-returns", "o"], {"old"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
    (["help", "su"], {"suspend"}),
    (["tal"], {"tally"}),
    (["tally", "s"], {"set", "show", "suspend"}),
    (["tally", "create", "--s"], {"--start", "--store"}),
    (["create", "--sta"], {"--start"}),
    (["tally", "add", "create", "--k"], {"--key", "--key-file"}),
    (["bench", "--json", "--du"], {"--duration"}),
]


@pytest.mark.process
@pytest.mark.parametrize(("typed", "offered"), TYPED, ids=[" ".join(typed) for typed, _ in TYPED])
def test_bash_completes(tmp_path: Path, typed: list[str], offered: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in ["idservice", *typed])
    asks = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _idservice; echo ${{COMPREPLY[@]}}"
    assert {*ask("bash", "-euc", f"{script('bash')}\n{asks}", folder=tmp_path)} == offered


@pytest.mark.process
@pytest.mark.parametrize(("typed", "offered"), TYPED, ids=[" ".join(typed) for typed, _ in TYPED])
def test_fish_completes(tmp_path: Path, typed: list[str], offered: set[str]) -> None:
    line = " ".join(["idservice", *typed])
    asks = f"complete -C '{line}' | string replace -r '\\t.*' ''; true"
    assert {
        *ask("fish", "--no-config", "-c", f"{script('fish')}\n{asks}", folder=tmp_path)
    } == offered


@pytest.mark.process
def test_zsh_takes_the_script(tmp_path: Path) -> None:
    """What it offers is shown by a terminal only; it reads the script, and registers it."""
    (tmp_path / "script").write_text(script("zsh"))
    asks = "autoload -U compinit; compinit -D; source ./script; echo $_comps[idservice]"
    assert ask("zsh", "-fc", asks, folder=tmp_path) == ["_idservice"]


def test_every_flag_of_every_command_is_in_each_script(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bash, zsh, fish = (script(shell) for shell in ("bash", "zsh", "fish"))
    for command in COMMANDS:
        wanted = helps(capsys, command)
        assert "--help" in wanted
        (line,) = re.findall(rf'^    "{command} "\*\) words="(.*)" ;;$', bash, re.MULTILINE)
        assert set(line.split()) == wanted
        (line,) = re.findall(rf'^    "{command}"\) _arguments (.*)$', zsh, re.MULTILINE)
        assert {*re.findall(r"'\*(--[a-z-]+)\[", line)} == wanted
        seen = f"'__idservice_in {command}' -l ([a-z-]+)"
        assert {f"--{flag}" for flag in re.findall(seen, fish)} == wanted
