"""Why the numbers are right: two independent judges, the oracle and the graph evaluator. Neither uses the
engine, nor each other."""
