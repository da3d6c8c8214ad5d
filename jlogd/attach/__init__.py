"""Node to manager, beside the delivery of journals: what to run (configuration), and what is run."""
