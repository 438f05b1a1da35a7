"""`labelfusion export`: write a model as a repository that works without this package, or as a Space that shows it."""

import argparse
import shutil
from pathlib import Path

from .flat_code import FILES
from .llm_needs import clients
from .options import add_max_cost

# What a repository needs none of: caches, checkpoints, anything that unpickles.
IGNORED = (".*", "checkpoint-*", "__pycache__", "*.pkl", "*.pickle", "*.pt", "*.bin", "*.tmp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="MODEL_DIR", help="folder of a saved model; for a Space also a Hub id")
    parser.add_argument("folder", metavar="OUT_DIR", help="new or empty folder for the repository")
    parser.add_argument("--space", action="store_true", help="write a Gradio Space that shows the model")
    parser.add_argument("--onnx", action="store_true", help="write the model as ONNX, with free batch and sequence")
    add = parser.add_argument_group("Space").add_argument
    add("--title", metavar="TEXT", help="heading of the page (default: the model's name)")
    add("--example", action="append", metavar="TEXT", help="a text that visitors can try; repeatable")
    add("--overwrite", action="store_true", help="write into OUT_DIR even if it holds other things than a Space")
    add_max_cost(parser)


def run(args: argparse.Namespace) -> int:
    """Export, and say how to go on."""
    if args.space and args.onnx:
        raise ValueError("Give --space or --onnx, not both.")
    if args.space:
        return _export_space(args)
    given = [name for name in ("title", "example", "overwrite", "max_cost_usd") if getattr(args, name)]
    if given:
        raise ValueError(f"`--{given[0].replace('_', '-')}` goes with --space.")
    if args.onnx:
        from .onnx_export import export_onnx

        difference = export_onnx(args.source, args.folder)
        print(f"Wrote {args.folder}; no logit differs from the original's by more than {difference:.1g}. Run it:\n")
        print(f'    LabelFusionOnnxModel.from_pretrained("{args.folder}")')
        return 0
    folder = export_model(args.source, args.folder)
    print(f"Wrote {folder}: it loads with transformers and torch alone, by\n")
    print(f'    pipeline("labelfusion-classification", model="{folder}", trust_remote_code=True)')
    return 0


def _export_space(args: argparse.Namespace) -> int:
    from .space import write_space

    options = {} if args.max_cost_usd is None else {"max_cost_usd": args.max_cost_usd}
    space = write_space(
        args.source, args.folder, title=args.title, examples=args.example, overwrite=args.overwrite, **options
    )
    print(f"Wrote {space}. Try it:\n\n    pip install -r {space}/requirements.txt && python {space}/app.py\n")
    print(f"Publish it:\n\n    hf upload USER/NAME {space} . --repo-type space")
    return 0


def export_model(source: str | Path, folder: str | Path, repo_id: str | None = None) -> Path:
    """Write a saved model as a self-contained repository: its files, its code, and a config that names both.

    Such a repository loads with `trust_remote_code=True` where this package is not installed, and without trust where
    it is. API models are asked through the `openai` client or litellm where these are installed. An Inference Endpoint
    runs it as it is: `handler.py` answers the requests, and `requirements.txt` names the clients that its LLMs need.

    Args:
        source: Folder of a saved model, with its tokenizer.
        folder: New or empty folder, or one that was exported before.
        repo_id: Name of the repository, for its card. Default: the folder's.

    Returns:
        `folder`.

    Raises:
        ValueError: If `source` holds no LabelFusion model, or `folder` holds something else.
    """
    from ..configuration import LabelFusionConfig
    from .model_card import update_card
    from .push import check_model_folder

    source, folder = Path(source), Path(folder)
    check_model_folder(source)
    if source.resolve() != folder.resolve():
        if folder.exists() and any(folder.iterdir()) and not (folder / f"{next(iter(FILES))}.py").is_file():
            raise ValueError(f"{str(folder)!r} is not empty: give a new folder for the exported repository.")
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*IGNORED), dirs_exist_ok=True)
    config = LabelFusionConfig.from_pretrained(folder)
    config.self_contained = True
    config.save_pretrained(folder)  # with the code
    shutil.copy(Path(__file__).with_name("handler.py"), folder / "handler.py")
    if needed := clients(config):
        (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in needed), encoding="utf-8")
    update_card(folder, repo_id)
    return folder
