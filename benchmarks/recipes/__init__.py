"""The experiments of Gupta et al. 2023 as recipes: every cell of tables 2 to 9, with the published figure."""
