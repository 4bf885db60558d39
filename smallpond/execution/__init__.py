"""Execution: a logical plan becomes stages of tasks (`planner`), which the scheduler keeps an executor busy with."""
