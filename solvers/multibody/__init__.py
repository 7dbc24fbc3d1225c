"""Mechanics of a body in batch: kinematics and dynamics of any model in the common representation, differentiable, in torch."""

from imdy_plugin.solvers.multibody.body import Kinematics, Load, Multibody

__all__ = ["Kinematics", "Load", "Multibody"]
