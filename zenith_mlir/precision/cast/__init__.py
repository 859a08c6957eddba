"""The pass `cast-precision`: which values of a program live in 16 bits, and the program that says so.

====================  ===============================================================================================
`classes.py`          the class of every operation: allow, infer, clear, deny
`policy.py`           `CastPolicy`: presets, and patterns that put operations into another class
`graph.py`            operations as nodes whose operands and results have ports: what each wants and gives
`joins.py`            loops, branches, calls and barriers as nodes: values that have to have one type
`constants.py`        which constants a 16-bit type holds
`pins.py`             values that stay float32: parameters, optimizer state, accumulators
`flow.py`             what lies before and behind products, and what is made of denied operations
`refusals.py`         products that stay as they are, and why
`colouring.py`        the fixed point: which nodes are computed in 16 bits
`remarks.py`          what the user is told
`rewrite.py`          types and converts
`composites.py`       composites with operands of other types, and their decompositions
====================  ===============================================================================================

The idea of the four classes and of their propagation is that of automatic mixed precision in grappler (TensorFlow).
"""
