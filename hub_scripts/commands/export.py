"""`labelfusion export`: write a model as a repository that works without this package, or as a demo Space."""

import argparse

from ..options import add_max_cost, without_loading_bars


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


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Export, and print the next steps."""
    if args.space and args.onnx:
        raise ValueError("Give --space or --onnx, not both.")
    if args.space:
        return _export_space(args)
    given = [name for name in ("title", "example", "overwrite", "max_cost_usd") if getattr(args, name)]
    if given:
        raise ValueError(f"`--{given[0].replace('_', '-')}` goes with --space.")
    if args.onnx:
        from ..formats.onnx_export import export_onnx

        difference = export_onnx(args.source, args.folder)
        print(f"Wrote {args.folder}; no logit differs from the original's by more than {difference:.1g}. Run it:\n")
        print(f'    LabelFusionOnnxModel.from_pretrained("{args.folder}")')
        return 0
    from ..formats.self_contained import export_model

    folder = export_model(args.source, args.folder)
    print(f"Wrote {folder}: it loads with transformers and torch alone, by\n")
    print(f'    pipeline("labelfusion-classification", model="{folder}", trust_remote_code=True)')
    return 0


def _export_space(args: argparse.Namespace) -> int:
    from ..space.space_folder import write_space

    options = {} if args.max_cost_usd is None else {"max_cost_usd": args.max_cost_usd}
    space = write_space(
        args.source, args.folder, title=args.title, examples=args.example, overwrite=args.overwrite, **options
    )
    print(f"Wrote {space}. Try it:\n\n    pip install -r {space}/requirements.txt && python {space}/app.py\n")
    print(f"Publish it:\n\n    hf upload USER/NAME {space} . --repo-type space")
    return 0
