"""What a student is trained on: the teacher's answers, the labels, and their mix."""
