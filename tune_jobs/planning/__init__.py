"""What a sweep would be, without running it: its trials, their places, its time, what is odd about it."""
