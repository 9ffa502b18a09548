"""A model behind an endpoint does one narrow job: how it is told, and how its answers are read. Pure, but for the asking itself.

prompts          a specification as the beginning of a conversation
structured       answers that are JSON: asked for, and read
unusable         what cannot be used, and why
rounds           ask, read, ask again what cannot be used
classification   labels with probabilities      label_masses    from log-probabilities of short codes
extraction       records, and spans of a text
"""
