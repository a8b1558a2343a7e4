//! nebula-registry
