"""Synthetic examples of a specification's job.

plan       which examples are wanted: cells, and how many of each    prompts    how they are asked for
fill       ask, keep what is good, ask again for the gaps
"""
