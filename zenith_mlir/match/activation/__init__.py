"""The semantic matcher for activations: GELU, SiLU and gates made of them, by the function that they compute."""
