"""Who runs where and when: shares, requests, capacity, queue, quotas, broker, simulation and lower bound."""
