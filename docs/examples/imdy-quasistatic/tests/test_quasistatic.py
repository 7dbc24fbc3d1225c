from imdy_quasistatic import QuasistaticSolver

from imdy_plugin.testing import SolverContract


class TestQuasistatic(SolverContract):
    solver = QuasistaticSolver
