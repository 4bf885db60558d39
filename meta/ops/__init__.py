"""The operations of the namespace, one a file: each is one function, one transaction, from a `Context` to a result."""
