"""The `labelfusion` command: one file per subcommand, loaded only when it is called."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .stopping import stoppable, told

VERBS = {
    "demo": "train a small fusion, show its table, classify a few texts; needs no key",
    "score": "query LLMs for the per-class scores of a data set",
    "batch": "query LLMs by batch APIs: within a day, at half the price",
    "train": "train a model on a data set",
    "evaluate": "measure fusion, encoder and LLMs on a data set",
    "predict": "classify a data set",
    "explain": "show why texts get their classes: sources, words, nearest labelled texts",
    "serve": "answer over HTTP",
    "suggest": "choose which texts to label next, and write them as tasks for annotators",
    "push": "publish a model or a scored data set on the Hub",
    "export": "write a model as a stand-alone Hub repository folder",
    "cache": "show, clear or export the store of paid LLM answers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit status.

    A user error gives status 2 and one line on stderr; set `LABELFUSION_TRACEBACK=1` to see the traceback. On Ctrl-C,
    SIGTERM or SIGHUP (status 130, 143, 129), paid answers are stored first; see `stopping`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((a for a in arguments if not a.startswith("-")), None)
    verbs: dict[str, argparse.ArgumentParser] = {}
    args = None
    try:
        with stoppable():  # before the imports, which take seconds
            parser, verbs = _main_parser()
            late = {}
            if verb in verbs:
                module = import_module(f".commands.{verb}", __package__)
                module.add_arguments(verbs[verb])
                text = "defaults for the options of this command"
                verbs[verb].add_argument("--config", metavar="FILE.yaml", help=text)
                late = _apply_config(verbs[verb], verb, arguments)
            elif verb is not None:
                near = get_close_matches(verb, verbs, n=1)
                meant = f" Did you mean {near[0]}?" if near else f" There are {', '.join(verbs)}."
                raise _UsageError(f"unknown command {verb!r}.{meant} See `labelfusion --help`.")
            args, unknown = parser.parse_known_args(arguments)
            if unknown:
                raise _UsageError(_unknown(unknown, verbs[verb] if verb else parser))
            if args.verb is None:
                parser.print_help()
                return 0
            for name, value in late.items():
                if getattr(args, name) is None:
                    setattr(args, name, value)
            return int(module.run(args) or 0)
    except SystemExit as stop:  # argparse has printed its help or error
        return int(stop.code or 0)
    except _UsageError as error:
        name = f"labelfusion {verb}" if verb in verbs else "labelfusion"
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        return told(interrupt, str(verb), args)
    except BrokenPipeError:  # the reader of the output has exited, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from ..configuration.secrets import redact

        if os.environ.get("LABELFUSION_TRACEBACK") or not _is_users(error):
            shown: BaseException | None = error  # Python prints it with its cause
            while shown is not None:
                shown.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in shown.args)
                shown = shown.__cause__ or shown.__context__
            raise
        message = " ".join(redact(str(error)).split()) or type(error).__name__
        message = _as_options(message, verbs[str(verb)]) if verb in verbs else message
        print(f"labelfusion {verb}: error: {message}", file=sys.stderr)
        return 2


class _UsageError(Exception):
    """A command or an option that does not exist."""


def _unknown(arguments: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """The message for arguments that `parser` does not know, with the options that may be meant."""
    options = [option for action in parser._actions for option in action.option_strings]
    given = [a.partition("=")[0] for a in arguments if a.startswith("-") and a.strip("-")]
    told = [f"unknown option {', '.join(given)}." if given else f"unexpected argument {arguments[0]!r}."]
    near = [match for name in given for match in get_close_matches(name, options, n=1)]
    if near:
        told.append(f"Did you mean {' and '.join(dict.fromkeys(near))}?")
    return " ".join([*told, f"See `{parser.prog} --help`."])


def _as_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Replace names of Python arguments in a message by those of options: `label_column` by `--label-column`."""
    for action in parser._actions:
        option = next((o for o in action.option_strings if o.startswith("--")), None)
        if option:
            message = re.sub(rf"(?:`{action.dest}=True`|\b{action.dest}=True\b)", f"`{option}`", message)
            message = re.sub(rf"`{action.dest}='?([^`']*)'?`", rf"`{option} \1`", message)
            message = message.replace(f"`{action.dest}`", f"`{option}`")
    return message


def _is_users(error: Exception) -> bool:
    from ..scoring.score_batch import ScoringError

    return isinstance(error, ValueError | OSError | ImportError | ScoringError)


def _main_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    from labelfusion import __version__

    parser = argparse.ArgumentParser(
        prog="labelfusion",
        description="Text classification that fuses a fine-tuned Transformer with LLM scores.",
        epilog="`labelfusion COMMAND --help` shows the options of a command; --config FILE.yaml sets their defaults.",
    )
    parser.add_argument("--version", action="version", version=f"labelfusion {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")
    verbs = {}
    for name, text in VERBS.items():
        if find_spec(f"{__package__}.commands.{name}") is not None:
            description = text[0].upper() + text[1:] + "."
            verbs[name] = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
    return parser, verbs


def _apply_config(parser: argparse.ArgumentParser, verb: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Set the defaults of `parser` from the file named by `--config`.

    Returns:
        Values of the repeatable options. They must be set after parsing, as argparse would append to a default.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(arguments)[0].config
    if path is None:
        return {}
    late = {}
    actions = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    for key, value in _read_config(path, verb).items():
        name = key.lstrip("-").replace("-", "_")
        if name not in actions:
            near = get_close_matches(name, actions, n=1, cutoff=0.0)
            raise ValueError(
                f"{path}: unknown option {key!r} for `labelfusion {verb}`; did you mean {_shown(near[0])!r}?"
            )
        action = actions[name]
        value = _checked(action, value, f"{path}: {key!r}")
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = "?"
        if isinstance(action, argparse._AppendAction):
            late[name] = value
        else:
            action.default = value
    return late


def _read_config(path: str, verb: str) -> dict[str, Any]:
    import yaml

    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        data = yaml.safe_load(text) or {}
        written = yaml.load(text, Loader=yaml.BaseLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold `option: value` lines, got a {type(data).__name__}.")
    data = _as_written(data, written)
    # One file may serve several commands: a section named after a command applies to that command only.
    options = {str(k): v for k, v in data.items() if not (k in VERBS and isinstance(v, dict | None))}
    return {**options, **{str(k): v for k, v in (data.get(verb) or {}).items()}}


def _as_written(typed: dict[Any, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Parsed YAML with plain values kept as written: `01`, `1.10`, `[yes, no]`."""

    def plain(value: Any, text: Any) -> Any:
        if isinstance(value, list) and isinstance(text, list):
            return [plain(v, t) for v, t in zip(value, text, strict=True)]
        return text if value is not None and isinstance(text, str) else value

    out: dict[str, Any] = {}
    for key, value in typed.items():
        text = written.get(str(key))
        inside = key in VERBS and isinstance(value, dict) and isinstance(text, dict)
        out[str(key)] = _as_written(value, text) if inside else plain(value, text)  # type: ignore[arg-type]
    return out


def _checked(action: argparse.Action, value: Any, where: str) -> Any:
    """Convert and check `value` as the command line would, with the option's `type` and `choices`."""
    if action.nargs == 0:
        value = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
            str(value).lower(), value
        )
        if not isinstance(value, bool):
            raise ValueError(f"{where} is a switch: true or false, not {value}.")
        return value
    several = isinstance(action, argparse._AppendAction) or action.nargs not in (None, "?")
    if isinstance(value, list) and not several:
        value = ",".join(map(str, value))
    checked = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            item = json.dumps(item)
        try:
            item = item if item is None or action.type is None else action.type(str(item))  # type: ignore[operator]
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{where}: {item} is not valid ({error}).") from None
        if action.choices is not None and item is not None and item not in action.choices:
            raise ValueError(f"{where} is {item!r}; expected one of {', '.join(map(str, action.choices))}.")
        checked.append(str(item) if action.type is None and item is not None else item)
    return checked if several else checked[0]


def _shown(name: str) -> str:
    return name.replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
