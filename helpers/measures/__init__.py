"""Measures of synthetic images. Nothing here imports a method, so nothing here can favour one."""
