"""Why a text got its answer: shares of the sources, words, and the nearest labelled texts."""
