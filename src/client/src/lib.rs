//! nebula-client
