"""What stands between dialogue and summary of a causal model, by language. Knows no model."""

from collections.abc import Mapping

PROMPTS: Mapping[str, str] = {"ko": "\n요약: ", "en": "\nSummary: "}
