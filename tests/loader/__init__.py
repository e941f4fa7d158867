"""Tests of mdl.loader."""
