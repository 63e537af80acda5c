"""Numbers of this package against numbers of the reference code, component by component."""

from stepaudio.tasks.verify.checks import Check, Component, ComponentReport, VerifyReport
from stepaudio.tasks.verify.components import COMPONENTS
from stepaudio.tasks.verify.runner import verify

__all__ = ["COMPONENTS", "Check", "Component", "ComponentReport", "VerifyReport", "verify"]
