"""Language models: characters or words, one after another."""
