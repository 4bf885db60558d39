"""Files: paths of every kind (local, a mount, `3fs://` and other fsspec URLs), parquet readers and writers."""
