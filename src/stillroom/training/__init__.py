"""Fitting students: estimators here, torch students through transformers.Trainer."""
