//! Whole registries over a real mesh.
