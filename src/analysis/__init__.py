"""From run folders to answers: results → filters → tables and plots → report. Neither torch nor src.submission."""
