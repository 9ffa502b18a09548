"""Predictors: how teachers, students, exports and members of ensembles are held, saved and loaded."""
