"""Measurements of the mount beside its source's limit and beside other file systems.

Each case returns plain values with units in their names; nothing here judges a speed.
"""
