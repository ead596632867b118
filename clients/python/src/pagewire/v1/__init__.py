"""Generated messages and stubs of the package pagewire.v1."""
