//! nebula-actors
