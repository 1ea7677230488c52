"""Runs plans on worker processes, of this machine or of several: messages, machines, transports."""
