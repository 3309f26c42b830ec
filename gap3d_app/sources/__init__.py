"""Where published weights come from: what exists, what is on this machine, how it is fetched and put together."""
