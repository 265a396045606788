"""The parts of deploy/check. Only the standard library is used."""
