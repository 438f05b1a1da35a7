"""`LabelFusionConfig` and the declaration of LLM providers: plain data, no I/O, no secret."""

from transformers import AutoConfig

from .configuration_labelfusion import LabelFusionConfig
from .llm_provider import LLMProvider, ProviderKind
from .task import DecisionRule, Task

AutoConfig.register("labelfusion", LabelFusionConfig, exist_ok=True)

__all__ = ["DecisionRule", "LLMProvider", "LabelFusionConfig", "ProviderKind", "Task"]
