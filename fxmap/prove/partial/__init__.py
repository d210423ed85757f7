"""Say what is shown where two models differ, or where one returns a part of what the other computes."""
