"""How arms are called: "teacher", "student", "control"; of another teacher "teacher@NAME", and of its student "student@NAME"."""

from __future__ import annotations


def other_teacher(arm: str) -> str:
    """NAME; "" for the main teacher's arms and the control."""
    return arm.partition("@")[2]


def teacher_of(arm: str) -> str:
    """The arm that an arm is held against; a teacher's is its own, the control's is the main teacher."""
    return _with_name("teacher", other_teacher(arm))


def student_of(teacher: str) -> str:
    """The arm that learns from the arm `teacher`."""
    return _with_name("student", other_teacher(teacher))


def _with_name(role: str, name: str) -> str:
    return f"{role}@{name}" if name else role
