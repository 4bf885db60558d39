"""The embedded executor: threads of this process first, long-lived worker processes as soon as they are up."""
