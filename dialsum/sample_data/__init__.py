"""Korean everyday dialogues and summaries of our own, so that every command runs without any outside data.

The sentences are in `scenes/*.yaml`; a seed decides values, wording and small talk.
"""
