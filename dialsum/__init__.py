"""Train, score and run one dialogue summarizer. Knows torch and transformers; knows no Ray and no W&B."""
