"""Teachers: who answers, how their answers are taken, and what those answers are worth. Always frozen."""
