"""A gateway that lies on request: development tool, demo and test double. Its record is the oracle of every test."""
