"""The one place that knows every area and their order."""
