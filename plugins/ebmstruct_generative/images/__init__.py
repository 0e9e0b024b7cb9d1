"""Pictures: the task that learns and draws them, what it reads and writes, and what it says of a picture it is shown."""
