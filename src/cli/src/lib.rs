//! nebula-cli
