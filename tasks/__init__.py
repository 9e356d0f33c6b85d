"""One verb a file; an orchestrator's task, a pod and the command line all call these functions."""
