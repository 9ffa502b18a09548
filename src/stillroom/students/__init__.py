"""Students: an architecture and how it starts."""
