//! nebula-proxy
