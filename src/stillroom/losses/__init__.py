"""Losses: pure functions of tensors, in nats, neither averaged nor weighted."""
