"""The stages of a language model's job whose teacher is behind an endpoint: its student learns what the teacher writes."""
