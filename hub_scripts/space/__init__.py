"""A Gradio Space that shows a model."""
