"""`mmjax completion`: a script by which a shell completes commands, options and their values.

shtab writes it from the parser of the command line.
"""

import re

import shtab

from mmjax import options, shipped
from mmjax.interop import FORMAT_NAMES

# bash takes --config=pairs for three words, as it parts words at "=": what follows sees two.
_BASH = """

_mmjax_complete() {
  local -a words=()
  local number cursor=$COMP_CWORD
  for number in "${!COMP_WORDS[@]}"; do
    if [[ ${COMP_WORDS[number]} == = && ${COMP_WORDS[number-1]} == --* ]]; then
      if ((number < COMP_CWORD)); then ((cursor--)); else words+=(""); fi
    else
      words+=("${COMP_WORDS[number]}")
    fi
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$cursor
  _shtab_mmjax
}
complete -o bashdefault -o default -F _mmjax_complete mmjax
"""


def script(shell: str) -> str:
    """The script for a shell, one of `options.SHELLS`.

    Names of recipes, formats and choices complete as values; other values as files or folders.
    """
    parser = options.parser()
    for action in options.actions(parser):
        if isinstance(action.metavar, str):  # zsh parts what it shows of a value at ":"
            action.metavar = re.sub(r"\W+", " ", action.metavar).strip()
        if action.dest in ("config", "compare"):
            action.choices = list(shipped.recipes())
        elif action.dest == "format":
            action.choices = list(FORMAT_NAMES)
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif str(action.metavar).startswith(("FILE", "PATH", "SRC", "DST")):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    found = str(shtab.complete(parser, shell))
    if shell == "zsh":  # --config=NAME as well as --config NAME
        found = re.sub(r'^( *"\*?--[a-z-]+)(?=\[.*\]:)', r"\1=", found, flags=re.MULTILINE)
    return found + (_BASH if shell == "bash" else "")
