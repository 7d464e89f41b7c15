"""The prompt between dialogue and summary of a causal model, by language."""

from collections.abc import Mapping

PROMPTS: Mapping[str, str] = {"ko": "\n요약: ", "en": "\nSummary: "}
