"""Students in formats that run elsewhere, each checked against the student it came from."""
