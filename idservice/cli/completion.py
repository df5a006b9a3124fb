"""The command `completion`: a script that teaches a shell the commands and flags of idservice.

The scripts follow from the table of commands, so that a flag is completed as soon as there is one.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from idservice.cli.command import Command
from idservice.cli.commands import COMMANDS, GROUPS
from idservice.server.exits import EXIT_OK


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag or, without a name, the argument of a command; `value` is empty for a switch."""

    name: str
    text: str
    value: str
    choices: tuple[str, ...]


def completion(parsed: argparse.Namespace) -> int:
    """Print the script for one shell."""
    print("\n".join(SHELLS[parsed.shell]()))
    return EXIT_OK


def _firsts() -> dict[str, str]:
    """Return the first words of commands, each with its text."""
    firsts = {}
    for name, command in COMMANDS.items():
        group = name.partition(" ")[0]
        firsts[group] = GROUPS[group].text if group in GROUPS else command.text
    return firsts


def _seconds(group: str) -> dict[str, str]:
    """Return the second words of a group's commands, each with its text."""
    names = {name.partition(" ")[::2]: command.text for name, command in COMMANDS.items()}
    return {second: text for (first, second), text in names.items() if first == group}


def _flags(command: Command) -> Iterator[_Flag]:
    """Yield what may follow the name of a command, but for arguments that nobody can guess."""
    yield _Flag("--help", "show what the command does", "", ())
    for setting in command.settings:
        words = tuple(setting.value.split("|")) if "|" in setting.value else ()
        yield _Flag(setting.flag, setting.help, setting.value, words)
    for name, options in command.arguments:
        choices = tuple(options.get("choices", ()))
        is_switch = options.get("action") == "store_true"
        if name.startswith("-") or choices:
            value = "" if is_switch else options.get("metavar") or "VALUE"
            flag = name if name.startswith("-") else ""
            yield _Flag(flag, options.get("help", ""), value, choices)


# --- bash -----------------------------------------------------------------------------------------


def _bash() -> Iterator[str]:
    yield '# eval "$(idservice completion bash)"'
    yield "_idservice() {"
    yield "  local words word=${COMP_WORDS[COMP_CWORD]} name=${COMP_WORDS[1]}"
    for group in GROUPS:
        yield f'  [ "$name" != {group} ] || name="{group} ${{COMP_WORDS[2]-}}"'
    yield '  case "$name ${COMP_WORDS[COMP_CWORD-1]}" in'
    for name, command in COMMANDS.items():
        for flag in _flags(command):
            if flag.choices:
                yield f'    "{name} {flag.name or name}") words="{" ".join(flag.choices)}" ;;'
    for name, command in COMMANDS.items():
        known = " ".join(flag.name for flag in _flags(command) if flag.name)
        yield f'    "{name} "*) words="{known}" ;;'
    yield "  esac"
    firsts = " ".join(_firsts())
    yield '  case "$COMP_CWORD ${COMP_WORDS[1]}" in'
    yield f'    "1 "*) words="{firsts} help --help --version" ;;'
    yield f'    "2 help") words="{firsts}" ;;'
    for group in GROUPS:
        yield f'    "2 {group}") words="{" ".join(_seconds(group))} --help" ;;'
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield "complete -o default -F _idservice idservice"


# --- zsh ------------------------------------------------------------------------------------------


def _zsh() -> Iterator[str]:
    yield "#compdef idservice"
    yield "# source <(idservice completion zsh), or a file _idservice in a folder of $fpath"
    yield "_idservice() {"
    for group in ("", *GROUPS):
        yield f"  local -a {group or 'commands'}=("
        for name, text in (_seconds(group) if group else _firsts()).items():
            yield "    " + _quoted(f"{name}:{_short(text)}")
        yield "  )"
    yield "  if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then"
    yield "    _describe command commands"
    yield "    return"
    yield "  fi"
    yield "  shift words"
    yield "  (( CURRENT-- ))"
    yield "  local name=$words[1]"
    for group in GROUPS:
        yield f"  if [[ $name == {group} ]]; then"
        yield f"    if (( CURRENT == 2 )); then _describe command {group}; return; fi"
        yield "    shift words"
        yield "    (( CURRENT-- ))"
        yield f'    name="{group} $words[1]"'
        yield "  fi"
    yield "  case $name in"
    for name, command in COMMANDS.items():
        specs = " ".join(_quoted(_zsh_spec(flag)) for flag in _flags(command))
        yield f"    \"{name}\") _arguments {specs} '*:argument:_default' ;;"
    yield "  esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _idservice ]]; then _idservice "$@"'
    yield "else compdef _idservice idservice; fi"


def _zsh_spec(flag: _Flag) -> str:
    def escaped(text: str) -> str:
        for special in "\\[]:":
            text = text.replace(special, f"\\{special}")
        return text

    action = f"({' '.join(flag.choices)})" if flag.choices else ""
    if not flag.name:
        return f"1:{escaped(flag.text)}:{action}"
    value = f":{escaped(flag.value)}:{action}" if flag.value else ""
    return f"*{flag.name}[{escaped(flag.text)}]{value}"


# --- fish -----------------------------------------------------------------------------------------


def _fish() -> Iterator[str]:
    yield "# idservice completion fish | source"
    yield "complete -c idservice -f"
    yield "complete -c idservice -n __fish_use_subcommand -s V -l version -d 'print versions'"
    yield "function __idservice_in"  # true if these words come first
    yield "  set -l typed (commandline -opc)"
    yield "  set -l last (math 1 + (count $argv))"
    yield "  test (count $typed) -ge $last"
    yield '  and test "$typed[2..$last]" = "$argv"'
    yield "end"
    for name, text in _firsts().items():
        told = f"-a {name} -d {_fish_quoted(_short(text))}"
        yield f"complete -c idservice -n __fish_use_subcommand {told}"
    firsts = " ".join(_firsts())
    yield f"complete -c idservice -n '__idservice_in help' -a '{firsts}'"
    for group in GROUPS:
        here = f"'__idservice_in {group}; and test (count (commandline -opc)) -eq 2'"
        for name, text in _seconds(group).items():
            told = f"-a {name} -d {_fish_quoted(_short(text))}"
            yield f"complete -c idservice -n {here} {told}"
    for name, command in COMMANDS.items():
        for flag in _flags(command):
            parts = [f"complete -c idservice -n '__idservice_in {name}'"]
            parts += [f"-l {flag.name[2:]}"] if flag.name else []
            parts += ["-r"] if flag.name and flag.value else []
            parts += [f"-a '{' '.join(flag.choices)}'"] if flag.choices else []
            yield " ".join([*parts, "-d", _fish_quoted(flag.text)])


def _fish_quoted(text: str) -> str:
    return _quoted(text.replace("\\", "\\\\"))


# --- all ------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    """Return a text in single quotes, with a typographic one in place of each."""
    return "'" + text.replace("'", "’") + "'"


def _short(text: str) -> str:
    """Return the first sentence without its full stop."""
    return text.partition(". ")[0].removesuffix(".")


SHELLS: dict[str, Callable[[], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
