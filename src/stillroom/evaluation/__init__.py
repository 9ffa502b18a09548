"""What was measured, how sure it is, and whether distillation was worth it."""
