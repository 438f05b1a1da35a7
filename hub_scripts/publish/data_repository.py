"""A scored data set in the Hub's format: Parquet, and a card that declares the columns and the class order.

The scores are in the order of the classes. `load_dataset` drops file metadata, so the card states the order, in the
field where `datasets` looks for the column types.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...training.data import CLASSES_SUFFIX
from ..io.tables import SCORES, Table, Writer, number_columns

if TYPE_CHECKING:
    from datasets import Features


def is_scored_text(path: Path) -> bool:
    """Whether `path` is a CSV or JSONL file that `labelfusion score` wrote."""
    return path.suffix.lower() != ".parquet" and path.with_name(path.name + CLASSES_SUFFIX).is_file()


def to_parquet(source: Path, folder: Path) -> Path:
    """Write a scored CSV or JSONL file as `<name>.parquet` into `folder`; returns the file.

    In a CSV file, scores are texts and unusable after `load_dataset`.
    """
    target = folder / f"{source.stem}.parquet"
    declared = source.with_name(source.name + CLASSES_SUFFIX).read_text(encoding="utf-8").strip()
    table = Table(str(source))
    with Writer(target, numbers=number_columns(table, "text"), metadata={"labelfusion": declared}) as writer:
        for row in table:
            scores = row.pop(SCORES, None)
            writer.write({**row, SCORES: json.loads(scores or "null") if isinstance(scores, str) else scores})
    return target


def describe(card: str, parquet: Path, name: str) -> str:
    """A card's text with its metadata completed.

    Args:
        card: The card.
        parquet: The data file.
        name: The data file's path in the repository.
    """
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCard

    described: Any = DatasetCard(card)
    described.data.configs = [{"config_name": "default", "data_files": name}]
    DatasetInfosDict(default=DatasetInfo(features=hub_features(parquet))).to_dataset_card_data(described.data)
    return str(described)


def hub_features(parquet: Path) -> "Features":
    """The columns of a Parquet file; labels of the scored classes, names or indices, are declared as `ClassLabel`."""
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, List

    schema = pq.read_schema(parquet)
    features = Features.from_arrow_schema(schema)
    names = json.loads((schema.metadata or {}).get(b"labelfusion", b"{}")).get("labels")
    for column in {"label", "labels"} & set(features) if names else ():
        several = isinstance(features[column], List)
        rows: list[Any] = pq.read_table(parquet, columns=[column])[column].to_pylist()
        found = {label for row in rows for label in ((row or []) if several else [row])} - {None}
        # A 0/1 vector is not a list of classes, and a number that is a class name is not an index.
        indices = not several and not any(name.isdecimal() for name in names) and found <= set(range(len(names)))
        if found and (found <= set(names) or indices):
            features[column] = List(ClassLabel(names=names)) if several else ClassLabel(names=names)
    return features
