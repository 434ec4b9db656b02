"""What routers do, counted in SQL over the store, each figure with its interval and its null.

`write_analysis(run, store)` fills the page tables of a run with routes; the other modules are one question each, as functions of
counts: load, co-activation, specialisation, information, paths. Agreement of two routers and experts against features are
queries by themselves (`routing.agreement`, `routing.features`).
"""

from sparse_rep.routing.analysis.write import analyse, write_analysis

__all__ = ["analyse", "write_analysis"]
