//! nebula-routing
