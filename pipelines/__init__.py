"""The Hugging Face pipeline `labelfusion-classification`."""
