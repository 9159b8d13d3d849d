"""Property tests: a reference model of the protocol, and machines that compare the scripts with it, call by call."""
