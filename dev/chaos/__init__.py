"""The bridge under faults: `make chaos` (docs/chaos.md)."""
