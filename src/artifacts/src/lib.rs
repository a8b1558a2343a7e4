//! nebula-artifacts
