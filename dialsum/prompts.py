"""The prompt around the dialogue of a causal model, by language."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dialsum.config import RunConfig
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS: Mapping[str, str] = {"ko": "\n요약: ", "en": "\nSummary: "}  # behind the dialogue
INSTRUCTIONS: Mapping[str, str] = {  # before the dialogue, in a chat
    "ko": "다음 대화를 요약하세요.\n\n",
    "en": "Summarize the following dialogue.\n\n",
}
_HERE = "#Dialogue#"


def prompt_around(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """Returns the text before and behind the dialogue of a causal model.

    Args:
        config: Language, and plain text or chat template.
        tokenizer: Has the chat template.

    Raises:
        RequestError: When a chat template is asked for and there is none.
    """
    if config.prompt == "plain":
        return "", PROMPTS[config.language]
    if not tokenizer.chat_template:
        raise RequestError(f"prompt chat: the tokenizer of {config.model!r} has no chat template; take prompt: plain")
    message = {"role": "user", "content": INSTRUCTIONS[config.language] + _HERE}
    # Templates of models that can think aloud read enable_thinking; others ignore it.
    text: str = tokenizer.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, found, behind = text.partition(_HERE)
    if not found:
        raise RequestError(f"prompt chat: the chat template of {config.model!r} leaves the user's text out; take plain")
    return before, behind
