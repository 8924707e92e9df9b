"""How good a model is: metrics from files, tasks for any model that answers, reports, leaderboards."""
