"""Executors: what runs work items, and where. They know nothing of plans, nodes or data sets."""

from threefs.smallpond.executors.interface import Executor, Host, Outcome, OutcomeKind, Resources, WorkItem

__all__ = ["Executor", "Host", "Outcome", "OutcomeKind", "Resources", "WorkItem"]
