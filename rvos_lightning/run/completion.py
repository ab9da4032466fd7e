"""`rvos --completion bash|zsh`: a script that completes verbs, flags, configuration files and class names."""

import re
from collections.abc import Iterable, Mapping

SHELLS = ("bash", "zsh")
SCRIPT = """# source <(rvos --completion {shell})
{prelude}_rvos() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}}
  local first="{verbs} --help --version --completion"
  if [[ $COMP_CWORD -eq 1 ]]; then COMPREPLY=($(compgen -W "$first" -- "$word")); return; fi
  case $before in
    -c|--config) COMPREPLY=($(compgen -f -X '!*.yaml' -- "$word") $(compgen -d -S / -- "$word")); return ;;
    --data) COMPREPLY=($(compgen -W "{data}" -- "$word")); return ;;
    --run) COMPREPLY=($(compgen -d -- "$word")); return ;;
  esac
  case $verb in
{cases}
  esac
  [[ ${{#COMPREPLY[@]}} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o nospace -F _rvos rvos
"""


def script(shell: str, verbs: Iterable[str], pages: Mapping[str, str]) -> str:
    """The script for bash, or for zsh through its bash emulation."""
    from rvos_lightning.run.catalogue import parts

    cases = []
    for verb in verbs:
        flags = sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z_.0-9]*", pages[verb])))
        cases.append(f'    {verb}) COMPREPLY=($(compgen -W "{" ".join(flags)}" -- "$word")) ;;')
    data = sorted(part.name for some in parts().values() for part in some if part.kind == "data sets")
    prelude = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return SCRIPT.format(
        shell=shell, prelude=prelude, verbs=" ".join(verbs), data=" ".join(data), cases="\n".join(cases)
    )
