"""The verbs of the command line: parse options, call one function of the library, show what it returns."""
