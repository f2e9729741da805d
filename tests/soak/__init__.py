"""Random programs of calls against real servers with faults, as long as one likes."""
