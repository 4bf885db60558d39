"""The logical plan: data sets, nodes, functions and the plan that joins them; then the optimiser's rules.

Nothing in here runs a task: `execution` reads a plan and makes stages of it.
"""
