"""What decides speed: device and precision, memory, processes that train together, what was made before."""
