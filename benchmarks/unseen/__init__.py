"""Networks in spellings that nobody wrote a rule for, composed at random, with planted truths."""
