"""The engines that run queries inside a task. Each is imported by the first task that needs it."""
