"""Bridges to other packages; each is imported where it is used, and needs the package it is named after."""
