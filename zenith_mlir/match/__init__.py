"""Matchers over the canonical form: named axes, index expressions, op matchers, and the semantic matcher for
attention.
"""
