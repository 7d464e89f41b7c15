"""Train, score and run one dialogue summarizer. Uses torch and transformers, not Ray or W&B."""
