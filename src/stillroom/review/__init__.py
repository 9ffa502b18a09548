"""Looking at a teacher's answers: the page, the sheet, and the journal of decisions."""
