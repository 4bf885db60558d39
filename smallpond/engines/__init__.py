"""The engines that run queries inside a task: DuckDB, Arrow, Polars. Each is imported by the first task that needs it."""
