"""Korean everyday dialogues and summaries of our own, so that every command runs without any outside data.

The sentences stand in `scenes/*.yaml`; values, wording and side remarks are drawn by a seed.
"""
