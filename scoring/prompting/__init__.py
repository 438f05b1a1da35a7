"""Prompts: templates, examples, and the quoting of texts."""
