"""Worker processes of one machine, and what passes between them and the driver."""
