"""Coders, their losses, one trainer, and exchange with other libraries' formats."""
