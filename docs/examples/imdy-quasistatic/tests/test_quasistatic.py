from imdy_plugin.testing import SolverContract
from imdy_quasistatic import QuasistaticSolver


class TestQuasistatic(SolverContract):
    solver = QuasistaticSolver
