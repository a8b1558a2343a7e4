//! nebula-health
