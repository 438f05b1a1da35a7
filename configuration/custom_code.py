"""The entries of a config by which Transformers finds the code of a model: `auto_map` and `custom_pipelines`."""

from typing import Any

TASK = "labelfusion-classification"
AUTO_MAP = {
    "AutoConfig": "configuration_labelfusion.LabelFusionConfig",
    "AutoModel": "modeling_labelfusion.LabelFusionForSequenceClassification",
    "AutoModelForSequenceClassification": "modeling_labelfusion.LabelFusionForSequenceClassification",
}
# In every other repository. Where the package is absent, Transformers shows what stands before the "--", with trust and
# without, as the repository that would hold the code. None can have a name with spaces, so none is ever asked for it.
NEEDS_PACKAGE = {
    "AutoConfig": "the Python package labelfusion-transformers: run `pip install labelfusion-transformers`, and "
    "`import labelfusion` before loading this model. `trust_remote_code=True`, even if the next lines ask for it, does "
    "not help.--configuration_labelfusion.LabelFusionConfig"
}
# False in the copy of this module that a self-contained repository holds.
INSTALLED = not __name__.startswith("transformers_modules.")


def custom_pipelines() -> dict[str, Any]:
    """Where `transformers.pipeline` finds the pipeline in a self-contained repository."""
    impl = "pipeline_labelfusion.LabelFusionPipeline"
    return {TASK: {"impl": impl, "pt": ["AutoModelForSequenceClassification"], "type": "text"}}


class RegisteredPipelines(dict[str, Any]):
    """Names the pipeline of a model for those who have the package, where it is registered and needs no trust.

    `transformers.pipeline` reads the task from the keys when it is given none, and demands `trust_remote_code` for a
    task that is `in` the dict: none is.
    """

    def __contains__(self, task: object) -> bool:
        return False
