"""Roll a new model version out on KServe: bring it up, check it against the running one, promote it, take it back."""
