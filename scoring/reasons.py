"""Why a text has no scores: a message for people, and its kind for the code that acts on it."""

from enum import StrEnum


class MissingKind(StrEnum):
    """Why an answer is missing. Members are strings, as those of `ProviderKind`, and compared with `==`."""

    NO_TEXT = "no text"  # there is nothing to query
    REFUSED = "refused"  # by the model, or a content filter
    TOO_LONG = "too long"  # for the model's context
    REJECTED = "rejected"  # the server says that the request is wrong: HTTP 400, 413, 422
    UNREADABLE = "unreadable"  # the model has answered, but not in the requested form
    UNDECIDED = "undecided"  # confidences of a scale that is not known yet
    FAILED = "failed"  # a request that may succeed later
    STOPPED = "stopped"  # not queried: the run has been stopped
    BUDGET = "budget"  # not queried: the money is spent
    UNRECORDED = "unrecorded"  # not queried: what is spent cannot be noted
    UNAVAILABLE = "unavailable"  # not queried: the scorer cannot work at all
    DEADLINE = "deadline"  # no answer in time
    NO_SCORES = "no scores"  # of recorded scores, or a Python function
    OTHER = "other"  # a plain message of a user's own scorer


FINAL = frozenset(
    {MissingKind.NO_TEXT, MissingKind.REFUSED, MissingKind.TOO_LONG, MissingKind.REJECTED, MissingKind.UNREADABLE}
)


class Missing(str):
    """The reason why a text has no scores: the message itself, and what kind of reason it is.

    Args:
        kind: What code acts on.
        detail: What people read. Never holds a text or a key.
    """

    __slots__ = ("kind",)
    kind: MissingKind

    def __new__(cls, kind: MissingKind, detail: str) -> "Missing":  # noqa: D102
        self = super().__new__(cls, detail)
        self.kind = kind
        return self

    def __getnewargs__(self) -> tuple[MissingKind, str]:  # type: ignore[override]
        return self.kind, str(self)

    @classmethod
    def of(cls, reason: str) -> "Missing":
        """The reason as it is; `MissingKind.OTHER` for a message without a kind."""
        return reason if isinstance(reason, cls) else cls(MissingKind.OTHER, reason)

    @property
    def is_final(self) -> bool:
        """Whether another query of the text would not help either."""
        return self.kind in FINAL

    def named(self, source: str) -> "Missing":
        """The same reason, with the name of the source that gave it."""
        return Missing(self.kind, f"{source}: {self}")

    def joined(self, other: "Missing") -> "Missing":
        """This reason and the `other` of the same text, each once. Final if both are."""
        if other == self:
            return self
        return Missing(other.kind if self.is_final else self.kind, f"{self}; {other}")


def add_reason(reasons: dict[int, Missing], row: int, reason: str) -> None:
    """Note one more `reason` why scores of a row are missing."""
    known, new = reasons.get(row), Missing.of(reason)
    reasons[row] = new if known is None else known.joined(new)
