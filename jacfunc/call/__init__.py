"""One call: checked, planned, run, remembered, compiled."""
