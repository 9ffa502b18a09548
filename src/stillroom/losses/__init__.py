"""Losses: pure functions of tensors, in nats; no T**2 and no state. Fused with the output projection, they are means over tokens."""
