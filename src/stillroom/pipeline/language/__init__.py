"""The stages of a language model's job."""
