"""What rows, words, units and tokens are: plain values that everything else passes around. Readers are elsewhere."""
