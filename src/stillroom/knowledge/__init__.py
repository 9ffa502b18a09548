"""The knowledge store: a teacher's answers, asked once, durable, found again by content."""
