"""Configuration of a mgmtd daemon. Times are seconds, defaults those of a cluster on one machine."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from threefs.common.config import Address, Config, hot, local


class LeaseConfig(Config):
    """How the primary is found. `margin_s` is what its owner gives away for clocks that run at unequal speed."""

    lease_s: float = Field(4.0, gt=0)
    extend_s: float = Field(1.0, gt=0)
    margin_s: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.extend_s + self.margin_s >= self.lease_s:
            raise ValueError("extend_s + margin_s must be below lease_s, or the lease lapses between two extensions")
        return self


class MgmtdConfig(Config):
    """`newborn_s`: how long a new primary takes a silent daemon to be alive. At least half of the failure timeout:
    then a daemon that only the last primary heard has fenced itself before it is declared dead."""

    node_id: int = local(1, ge=1)
    listen: Address = local("127.0.0.1:9000")
    cluster_id: str = local("")  # empty: the store's, or a new one
    lease: LeaseConfig = local(LeaseConfig())
    heartbeat_interval_s: float = hot(0.5, gt=0)
    failure_timeout_s: float = hot(3.0, gt=0)
    check_interval_s: float = hot(0.1, gt=0)
    newborn_s: float = hot(2.0, gt=0)
    usage_interval_s: float = hot(5.0, gt=0)
    session_extend_s: float = hot(2.0, gt=0)
    session_timeout_s: float = hot(30.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.newborn_s < self.failure_timeout_s / 2:
            raise ValueError(f"newborn_s must be at least half of failure_timeout_s ({self.failure_timeout_s / 2:g})")
        if self.heartbeat_interval_s > self.failure_timeout_s / 4:
            raise ValueError("heartbeat_interval_s must be at most a quarter of failure_timeout_s")
        if self.session_extend_s > self.session_timeout_s / 3:
            raise ValueError("session_extend_s must be at most a third of session_timeout_s")
        return self
