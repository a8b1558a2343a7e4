//! nebula-supervisor
