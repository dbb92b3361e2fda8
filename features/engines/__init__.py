"""Enrichment as a job of many parts, on a local process pool, on Ray Data or on Spark, and the kernel for jobs of your own."""
