"""The encoder's side of the recipe: probe, contrastive training, fine-tuning, TF-IDF head and kernel head."""
