"""Placeholder until the branch captioned is merged."""


class Tokenizer: ...
