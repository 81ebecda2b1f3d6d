"""From a config to a recorded run."""
