"""A server as a process: its sockets, signals, and end."""
