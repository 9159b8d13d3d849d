"""What a choice of staleness costs: runs are simulated with the broker's own rules, without a server.

`broker plan` shows the result as a table.
"""
