"""What a person reads at the end of a run: report.html, the model card, the verdict in words."""
