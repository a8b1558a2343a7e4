//! nebula-node
