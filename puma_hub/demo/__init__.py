"""The demo on real models and real data, and the benchmark on them."""
