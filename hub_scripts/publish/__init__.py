"""Publishing on the Hugging Face Hub: models, data sets, and a check for secrets."""
