"""`zenith.memory`: what a program needs and when, and arrays kept within a budget."""

from __future__ import annotations
