"""The methods of querying an LLM behind an API. A new method is a file in this folder and an entry here.

Its name is also listed in `configuration.llm_provider.METHODS`, which validates declarations and imports nothing.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .decision import DecisionMethod
from .json_answer import JSONMethod
from .logprob import LogprobMethod
from .request_method import Method
from .vote import VoteMethod

# Best first: the order in which `auto` tries them. Read-only, because an entry that is put back would come last.
METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {method.name: method for method in (DecisionMethod, LogprobMethod, JSONMethod, VoteMethod)}
)
