"""Where a model is wrong: figures of classes, confusions, errors with their texts, advice."""
